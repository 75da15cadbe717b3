"""Shared by the rewrites that move scale from activations into weights: which tensors allow it, and doing it.

The channels of a tensor are divided by factors, and the weights of the layers that read it are multiplied by them, so
that the model computes the same function. It is possible where the division can be done in constants: the tensor comes
from a linear operator or a normalization, with nothing between but functions for which f(x / s) = f(x) / s holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers._activations import Reduction, reduce
from tasks.quantizers._graph import Graph, attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto, NodeProto

    from tasks.quantizers import Calibration

HOMOGENEOUS = ("Relu", "LeakyRelu")
"""Functions with f(x / s) = f(x) / s for every s > 0."""
Division = tuple["NodeProto", int, int]
"""A node, the number of its input that is a constant, and the axis of the constant along which it is divided."""


@dataclass(frozen=True, kw_only=True)
class Scalable:
    """A tensor whose channels can be divided by factors."""

    name: str
    divisions: tuple[Division, ...]
    """The constants before it that are divided."""
    layers: tuple[NodeProto, ...]
    """All nodes that read it: their weights are multiplied."""
    clip: float | None = None
    """Upper limit of the Clip that the tensor comes out of; its lower limit is 0. None: no Clip is on the way."""


def tokens(graph: Graph) -> list[Scalable]:
    """Return the tensors with channels on the last axis that only MatMul and Gemm with constant weights read."""
    return _scalable(graph, _reads_tokens, _divide_tokens)


def pixels(graph: Graph) -> list[Scalable]:
    """Return the tensors with channels on axis 1 that only convolutions with constant weights read."""
    return _scalable(graph, _reads_pixels, _divide_pixels)


def _scalable(
    graph: Graph,
    reads: Callable[[Graph, NodeProto, str], bool],
    divide: Callable[[Graph, NodeProto], tuple[Sequence[Division], str | None] | None],
) -> list[Scalable]:
    """Return the tensors that only certain layers read, and that can be divided before them."""
    found = []
    for name, nodes in graph.consumers.items():
        if name in graph.outputs or not all(reads(graph, node, name) for node in nodes):
            continue
        divisions: list[Division] = []
        clip = None
        before: str | None = name
        # What lies before must have no other reader, who would see divided values.
        while before is not None and (before == name or graph.only_consumer(before) is not None):
            node = graph.producer.get(before)
            if node is not None and node.op_type == "Clip" and clip is None and (limit := _upper_limit(graph, node)):
                clip, before = limit, node.input[0]
                continue
            step = None if node is None else divide(graph, node)
            if step is None:
                break
            divisions += step[0]
            before = step[1]
        if before is None:
            found.append(Scalable(name=name, divisions=tuple(divisions), layers=tuple(nodes), clip=clip))
    return found


def _upper_limit(graph: Graph, node: NodeProto) -> float | None:
    """Return the upper limit of a Clip from 0 to a constant, as ReLU6 is; None for another one."""
    limits = [graph.constant(name) for name in node.input[1:] if graph.is_constant(name)]
    return float(limits[1]) if len(limits) == 2 and float(limits[0]) == 0 else None


def _reads_tokens(graph: Graph, node: NodeProto, name: str) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] != name or not graph.is_constant(node.input[1]):
        return False
    return len(graph.initializers[node.input[1]].dims) == 2 and not attribute(node, "transA", 0)


def _reads_pixels(graph: Graph, node: NodeProto, name: str) -> bool:
    return node.op_type == "Conv" and node.input[0] == name and graph.is_constant(node.input[1])


def _divide_tokens(graph: Graph, node: NodeProto) -> tuple[Sequence[Division], str | None] | None:
    """Return how a node's output is divided on its last axis: constants, and a tensor that must be divided, too.

    None means that it cannot be. Where nothing else must be divided, there is no tensor.
    """
    if node.op_type in HOMOGENEOUS:
        return (), node.input[0]
    if node.op_type in ("Add", "Mul"):
        places = [place for place in (0, 1) if graph.is_constant(node.input[place])]
        if len(places) != 1 or not graph.initializers[node.input[places[0]]].dims:
            return None
        return ((node, places[0], -1),), node.input[1 - places[0]] if node.op_type == "Add" else None
    by_type = {
        "LayerNormalization": ((1, -1), (2, -1)),
        "MatMul": ((1, -1),),
        "Gemm": ((1, 0 if attribute(node, "transB", 0) else 1), (2, -1)),
    }
    if node.op_type not in by_type or attribute(node, "axis", -1) != -1:
        return None
    return _constants(graph, node, *by_type[node.op_type])


def _divide_pixels(graph: Graph, node: NodeProto) -> tuple[Sequence[Division], str | None] | None:
    """Return how a node's output is divided on axis 1, as `_divide_tokens` does."""
    if node.op_type in HOMOGENEOUS:
        return (), node.input[0]
    if node.op_type in ("Conv", "BatchNormalization"):
        return _constants(graph, node, (1, 0), (2, 0))
    return None


def _constants(graph: Graph, node: NodeProto, *places: tuple[int, int]) -> tuple[Sequence[Division], None] | None:
    """Return the divisions of a node's constants along the given axes, or None where one of them is no constant."""
    present = [(place, axis) for place, axis in places if place < len(node.input) and node.input[place]]
    names = [node.input[place] for place, _ in present]
    if not all(graph.is_constant(name) and graph.initializers[name].dims for name in names):
        return None
    return tuple((node, place, axis) for place, axis in present), None


def largest(model: ModelProto, tensors: dict[str, int], axis: int, calibration: Calibration) -> dict[str, np.ndarray]:
    """Return the largest absolute value of each channel of some tensors: float32, (channels,).

    `tensors` has the number of axes of each; `axis` is that of the channels. The model is changed.
    """
    pairs = {}
    for name, rank in tensors.items():
        others = tuple(number for number in range(rank) if number != axis % rank)
        pairs[name] = Reduction("ReduceMin", name, others), Reduction("ReduceMax", name, others)
    found: dict[str, np.ndarray] = {}
    for _, values in reduce(model, [reduction for pair in pairs.values() for reduction in pair], calibration):
        for name, (low, high) in pairs.items():
            magnitude = np.maximum(abs(values[low]), abs(values[high]))
            found[name] = np.maximum(found.get(name, magnitude), magnitude)
    return found


def input_weights(graph: Graph, layers: Sequence[NodeProto]) -> np.ndarray:
    """Return the largest absolute weight of each input channel over some layers: float32, (channels,)."""
    return np.maximum.reduce([_input_weight(graph, node) for node in layers])


def _input_weight(graph: Graph, node: NodeProto) -> np.ndarray:
    weight = abs(graph.constant(node.input[1]))
    if node.op_type != "Conv":
        return weight.max(0 if attribute(node, "transB", 0) else 1)
    groups = attribute(node, "group", 1)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).max((1, 3)).reshape(-1)


def apply(graph: Graph, tensor: Scalable, factors: np.ndarray) -> None:
    """Divide the channels of a tensor by factors, and multiply the weights of the layers that read it by them."""
    factors = factors.astype(np.float32)
    for node, place, axis in tensor.divisions:
        values = graph.constant(node.input[place])
        graph.replace(node, place, values / _along(factors, axis, values.ndim))
    for layer in tensor.layers:
        graph.replace(layer, 1, multiplied(graph, layer, factors))


def _along(factors: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return factors in a shape that stands along one axis of an array."""
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def multiplied(graph: Graph, node: NodeProto, factors: np.ndarray) -> np.ndarray:
    """Return the weight of a layer with its input channels multiplied by factors."""
    weight = graph.constant(node.input[1])
    if node.op_type != "Conv":
        return weight * _along(factors, 1 if attribute(node, "transB", 0) else 0, weight.ndim)
    groups = attribute(node, "group", 1)
    by_group = np.repeat(factors.reshape(groups, -1), len(weight) // groups, axis=0)
    return weight * by_group.reshape(*by_group.shape, *([1] * (weight.ndim - 2)))
