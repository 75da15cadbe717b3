"""The graph of an int8 form, in which tensors are quantized and dequantized between the operators (Q/DQ pairs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.forms.onnxgraph import makers_of

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear with one DequantizeLinear that takes its output."""

    original: str
    """Name of the tensor that is quantized."""
    result: str
    """Name of the tensor that comes out."""


class PairedGraph:
    """The graph of an int8 form, with the makers and users of its tensors and its Q/DQ pairs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = makers_of(graph)
        self.constants = {tensor.name for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - self.constants
        self.outputs = {value.name for value in graph.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.pairs: dict[str, Pair] = {}
        """By name of the result."""
        for node in graph.node:
            quantizer = self.makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if quantizer is not None and quantizer.op_type == "QuantizeLinear":
                self.pairs[node.output[0]] = Pair(quantizer.input[0], node.output[0])
        self.pairs_of: dict[str, list[Pair]] = {}
        """By name of the original."""
        for pair in self.pairs.values():
            self.pairs_of.setdefault(pair.original, []).append(pair)

    def has(self, tensor: str) -> bool:
        """Return whether a tensor of the float graph is one of the form's, and no constant."""
        return tensor in self.makers or tensor in self.inputs

    def original(self, tensor: str) -> str:
        """Return the tensor before any Q/DQ pair."""
        while tensor in self.pairs:
            tensor = self.pairs[tensor].original
        return tensor

    def is_quantized(self, node: onnx.NodeProto) -> bool:
        """Return whether a node takes what was dequantized."""
        return any((maker := self.makers.get(name)) and maker.op_type == "DequantizeLinear" for name in node.input)
