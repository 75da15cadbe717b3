"""What happens to an image in an ONNX graph: the operators that compute on it, their order, and the modules that they
come from."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.forms.onnx import SCOPES
from tasks.forms.onnxgraph import STANDARD, sort_nodes

if TYPE_CHECKING:
    import onnx

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply by weights, which is where a classifier's time goes."""
SIZES = ("Shape", "Size")
"""Operators that return the size of a tensor: what is computed from it is not computed from the image."""


def names_of(graph: onnx.GraphProto) -> list[str]:
    """Return a name for each node of a graph, in the file's order.

    It is the node's own. Where it has none, or another node has the same, it is that of the node's first output.
    """
    counts = Counter(node.name for node in graph.node)
    return [node.name if node.name and counts[node.name] == 1 else node.output[0] for node in graph.node]


class Dataflow:
    """The nodes of a graph that compute on the image, in an order in which they can be executed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        names = names_of(model.graph)
        weights = {tensor.name for tensor in model.graph.initializer}
        # The nodes alone are copied, because weights are large.
        graph = onnx.GraphProto()
        graph.node.extend(model.graph.node)
        for node, name in zip(graph.node, names, strict=True):
            node.name = name
        sort_nodes(graph)
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = {value.name for value in model.graph.input} - weights
        """Names of the tensors that are computed from the image, and of the image itself."""
        for node in graph.node:
            if node.op_type not in SIZES and self.tensors.intersection(node.input):
                self.nodes.append(node)
                self.tensors.update(node.output)
        self.makers = {name: number for number, node in enumerate(self.nodes) for name in node.output}
        """Tensor -> number of the node that makes it."""

    def sources(self, number: int) -> list[int]:
        """Return the numbers of the nodes whose outputs a node takes."""
        return [self.makers[name] for name in self.nodes[number].input if name in self.makers]

    @cached_property
    def users(self) -> dict[str, list[int]]:
        """Tensor -> numbers of the nodes that take it."""
        users: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in self.tensors.intersection(node.input):
                users.setdefault(name, []).append(number)
        return users

    def is_layer(self, number: int) -> bool:
        """Return whether a node multiplies by weights, or multiplies matrices."""
        return self.nodes[number].op_type in LAYERS and self.nodes[number].domain in STANDARD

    @cached_property
    def crossing(self) -> list[int]:
        """The number of tensors that lead from the first n nodes to the later ones, for each n from 0."""
        counts = [0] * (len(self.nodes) + 1)
        for name, users in self.users.items():
            for position in range(self.makers.get(name, -1) + 1, users[-1] + 1):
                counts[position] += 1
        return counts

    @cached_property
    def modules(self) -> list[tuple[str, ...]]:
        """The module that each node comes from, as far as names tell: ("blocks", "2", "1", "conv_pw").

        A node of which nothing is known counts to the module of the node before.
        """
        modules: list[tuple[str, ...]] = []
        for number, node in enumerate(self.nodes):
            known = self._module_of_weights(number) or _module_of_scopes(node) or _module_of_name(node.name)
            modules.append(known or (modules[-1] if modules else ()))
        return modules

    def _module_of_weights(self, number: int) -> tuple[str, ...]:
        """Return the module by the name of a layer's weights.

        For layers it says more than the scopes: in a convolution with folded BatchNorm, these are the BatchNorm's.
        """
        node = self.nodes[number]
        if not self.is_layer(number) or node.input[1] not in self.weights or "::" in node.input[1]:
            return ()
        return _words(node.input[1])[:-1]

    def between(self, start: str, end: str) -> list[int]:
        """Return the numbers of the nodes on all ways from the tensor `start` to the tensor `end`, in order."""
        if end not in self.makers:
            return []
        first = self.makers.get(start, -1) + 1
        reached = {start}
        after = []
        for number in range(first, self.makers[end] + 1):
            if reached.intersection(self.nodes[number].input):
                reached.update(self.nodes[number].output)
                after.append(number)
        needed = {end}
        way = []
        for number in reversed(after):
            if needed.intersection(self.nodes[number].output):
                needed.update(self.nodes[number].input)
                way.append(number)
        return way[::-1]


def _words(name: str) -> tuple[str, ...]:
    """Return the parts of a name of PyTorch (layer1.0.conv1) or TensorFlow (model/block1/conv/Conv2D)."""
    parts: list[str] = []
    for part in filter(None, name.split("/")):
        # PyTorch's older exporter writes the way to a module as /layer1/layer1.0/conv1.
        is_longer = bool(parts) and part.startswith(".".join(parts) + ".")
        parts = part.split(".") if is_longer else [*parts, *part.split(".")]
    return tuple(parts)


def _module_of_scopes(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the module by what PyTorch's exporter writes beside a node: ["", "blocks", "blocks.0", "add_1"]."""
    entries = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
    if not entries:
        return ()
    try:
        scopes = ast.literal_eval(entries[0])
    except (ValueError, SyntaxError):
        return ()
    return tuple(str(scopes[-2]).split(".")) if len(scopes) > 1 and scopes[-2] else ()


def _module_of_name(name: str) -> tuple[str, ...]:
    """Return the module by a node's name that is a path."""
    return _words(name)[:-1] if "/" in name else ()
