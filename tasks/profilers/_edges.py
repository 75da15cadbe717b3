"""Conversions at a graph's own input and output. No form of quantization avoids them, so no finding is about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.profilers._kinds import kind
from tasks.profilers._onnx import constant

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx


@dataclass(frozen=True)
class Node:
    """A node of the graph that a runtime executes."""

    name: str
    type: str
    reads: frozenset[str]
    """Names of the tensors that it reads, other than constants."""
    writes: frozenset[str]
    """Names of the tensors that it writes."""


def edges(
    nodes: Sequence[Node], inputs: Collection[str], outputs: Collection[str], *, file_nodes: Collection[str]
) -> set[str]:
    """Return the names of the conversions between the graph's input or output and the operators that compute.

    These are conversions of the type, and changes of the layout that the runtime put there itself.

    Parameters
    ----------
    nodes : in the order of execution
    inputs, outputs : tensors of the graph
    file_nodes : names of the nodes of the file. A change of the layout that the file asks for is no edge, because it
        could be left out of the file.
    """

    def converts(node: Node) -> bool:
        what = kind(node.type)
        return what == "convert" or (what in ("reorder", "copy") and node.name not in file_nodes)

    names: set[str] = set()
    # From the input on: tensors that are the input itself, converted or not.
    reached = set(inputs)
    for node in nodes:
        if converts(node) and node.reads and node.reads <= reached:
            names.add(node.name)
            reached |= node.writes
    # From the output back: nodes behind which nothing computes any more.
    behind: set[str] = set()
    for node in reversed(nodes):
        users = {other.name for other in nodes if other.reads & node.writes}
        passes = converts(node) or kind(node.type) == "other"
        if passes and users <= behind and (users or node.writes & set(outputs)):
            behind.add(node.name)
            if converts(node):
                names.add(node.name)
    return names


def of_onnx(executed: onnx.ModelProto, file_nodes: Collection[str]) -> set[str]:
    """Return `edges` of an optimized ONNX graph."""
    constant_nodes = constant(executed)
    constants = {tensor.name for tensor in executed.graph.initializer}
    constants |= {name for node in executed.graph.node if node.name in constant_nodes for name in node.output}
    nodes = [
        Node(node.name, node.op_type, frozenset(node.input) - constants - {""}, frozenset(node.output))
        for node in executed.graph.node
        if node.name not in constant_nodes
    ]
    inputs = {value.name for value in executed.graph.input} - constants
    outputs = {value.name for value in executed.graph.output}
    return edges(nodes, inputs, outputs, file_nodes=file_nodes)


def of_openvino(executed: Any, types: Mapping[str, str], file_nodes: Collection[str]) -> set[str]:
    """Return `edges` of the model that OpenVINO executes (`CompiledModel.get_runtime_model()`).

    `types` has the type of each of its operators, by name.
    """
    nodes: list[Node] = []
    inputs: set[str] = set()
    outputs: set[str] = set()
    # Operators that depend on the input. A tensor goes by the name of the operator that writes it.
    varying: set[str] = set()
    for node in executed.get_ordered_ops():
        name = node.get_friendly_name()
        type = types[name]
        reads = frozenset(value.get_node().get_friendly_name() for value in node.input_values()) & varying
        if type == "Input":
            inputs.add(name)
        elif type == "Output":
            outputs |= reads
        elif reads:
            nodes.append(Node(name, type, reads, frozenset({name})))
        if type == "Input" or reads:
            varying.add(name)
    return edges(nodes, inputs, outputs, file_nodes=file_nodes)
