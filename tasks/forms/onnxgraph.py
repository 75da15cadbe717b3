"""Find and change parts of an ONNX graph in memory: names of tensors, what makes and uses them, what nothing uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy
    import onnx

STANDARD = ("", "ai.onnx")
"""The two names of ONNX's own domain of operators."""
UNCHANGED = ("Identity", "Cast", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that may follow the last activation: they leave the values and their order as they are."""


class Activation(NamedTuple):
    """The function that makes probabilities of a classifier's logits at the end of a graph."""

    kind: str
    """Softmax or Sigmoid."""
    probabilities: str
    """Name of the tensor that it makes."""
    logits: str
    """Name of the tensor that it is computed from."""


def final_activation(graph: onnx.GraphProto, output: str) -> Activation | None:
    """Return the Softmax or Sigmoid that makes an output, None where none is found.

    A Softmax that an old exporter wrote as exponentials over their sum is found, too.
    """
    makers = makers_of(graph)
    name = output
    while (node := makers.get(name)) is not None and node.domain in STANDARD:
        if node.op_type in ("Softmax", "Sigmoid"):
            return Activation(node.op_type, name, node.input[0])
        if node.op_type == "Div":
            return _exponentials_over_sum(node, makers)
        if node.op_type not in UNCHANGED:
            return None
        name = node.input[0]
    return None


def _exponentials_over_sum(division: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> Activation | None:
    exponential, total = (makers.get(name) for name in division.input)
    if exponential is None or total is None or (exponential.op_type, total.op_type) != ("Exp", "ReduceSum"):
        return None
    if total.input[0] != division.input[0]:
        return None
    return Activation("Softmax", division.output[0], exponential.input[0])


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def users_of(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that take a tensor, those in branches and loops included."""
    return [node for node in _all_nodes(graph) if tensor in node.input]


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs within its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def redirect(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Make every node that takes the tensor `old` take `new`."""
    for node in users_of(graph, old):
        node.input[:] = [new if name == old else name for name in node.input]


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name, everywhere. A tensor that has this name already gets a further one."""
    if old == new:
        return
    if any(new in (*node.input, *node.output) for node in _all_nodes(graph)):
        rename(graph, new, unused_name(graph, f"{new}_of_file"))
    redirect(graph, old, new)
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if value.name == old:
            value.name = new


def unused_name(graph: onnx.GraphProto, wanted: str) -> str:
    """Return a name that no tensor and no node of the graph has: the wanted one, if need be with a number."""
    taken = {name for node in _all_nodes(graph) for name in (node.name, *node.input, *node.output)}
    taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    name = wanted
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def add_constant(graph: onnx.GraphProto, name: str, values: numpy.ndarray) -> str:
    """Add a constant to the graph, and return the name that it got."""
    from onnx import numpy_helper

    name = unused_name(graph, name)
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors of the graph whose values are in the file, by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD:
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    return constants


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and weights from which no output of the graph is computed."""
    makers = makers_of(graph)
    needed: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in makers:
            waiting += makers[name].output
            waiting += _inputs_of(makers[name])
    _keep(graph.node, [node for node in graph.node if needed.intersection(node.output)])
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _keep(graph.value_info, [value for value in graph.value_info if value.name in needed])


def _inputs_of(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node takes, those that the graphs within it take from outside included."""
    inner = [name for attribute in node.attribute for g in (attribute.g, *attribute.graphs) for name in _taken(g)]
    return [*node.input, *inner]


def _taken(graph: onnx.GraphProto) -> list[str]:
    return [name for node in _all_nodes(graph) for name in node.input] + [value.name for value in graph.output]


def _keep(field: object, kept: Sequence[object]) -> None:
    """Replace the content of a repeated field of a protobuf message."""
    copies = list(kept)
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
