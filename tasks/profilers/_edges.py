"""Conversions at a graph's own input and output, which no form of quantization avoids: they are no advice."""

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
    takes: frozenset[str]
    """Tensors that it reads, constants left out."""
    gives: frozenset[str]
    """Tensors that it writes."""


def edges(nodes: Sequence[Node], inputs: Collection[str], outputs: Collection[str], own: Collection[str]) -> set[str]:
    """Names of the conversions between the graph's input or output and the first or last operator that computes.

    These are conversions of the type, and changes of the layout that the runtime put there itself.

    Parameters
    ----------
    nodes
        In the order of execution.
    inputs, outputs
        Tensors of the graph.
    own
        Names of the nodes of the file: a change of the layout that it asks for could be left out of it.
    """

    def converts(node: Node) -> bool:
        what = kind(node.type)
        return what == "convert" or (what in ("reorder", "copy") and node.name not in own)

    found: set[str] = set()
    reached = set(inputs)
    for node in nodes:
        if converts(node) and node.takes and node.takes <= reached:
            found.add(node.name)
            reached |= node.gives
    behind: set[str] = set()
    for node in reversed(nodes):
        users = {other.name for other in nodes if other.takes & node.gives}
        passes = converts(node) or kind(node.type) == "other"
        if passes and users <= behind and (users or node.gives & set(outputs)):
            behind.add(node.name)
            found |= {node.name} if converts(node) else set()
    return found


def of_onnx(executed: onnx.ModelProto, own: Collection[str]) -> set[str]:
    """`edges` of an optimized ONNX graph."""
    still = constant(executed)
    fixed = {tensor.name for tensor in executed.graph.initializer}
    fixed |= {name for node in executed.graph.node if node.name in still for name in node.output}
    nodes = [
        Node(node.name, node.op_type, frozenset(node.input) - fixed - {""}, frozenset(node.output))
        for node in executed.graph.node
        if node.name not in still
    ]
    given = {value.name for value in executed.graph.input} - fixed
    return edges(nodes, given, {value.name for value in executed.graph.output}, own)


def of_openvino(executed: Any, types: Mapping[str, str], own: Collection[str]) -> set[str]:
    """`edges` of the model that OpenVINO executes (`CompiledModel.get_runtime_model()`), with each operator's type."""
    nodes: list[Node] = []
    inputs: set[str] = set()
    outputs: set[str] = set()
    varying: set[str] = set()
    for node in executed.get_ordered_ops():
        name = node.get_friendly_name()
        type = types[name]
        takes = frozenset(value.get_node().get_friendly_name() for value in node.input_values()) & varying
        if type == "Input":
            inputs.add(name)
        elif type == "Output":
            outputs |= takes
        elif takes:
            nodes.append(Node(name, type, takes, frozenset({name})))
        varying |= {name} if type == "Input" or takes else set()
    return edges(nodes, inputs, outputs, own)
