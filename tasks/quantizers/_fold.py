"""Shared by the quantizers on ONNX Runtime: fold BatchNorm into layers where ONNX Runtime (1.31) does not.

It folds a norm into the convolution before it, unless several operators read the norm's output, as with SiLU. It does
not fold one into a Gemm, nor into the layer behind it. A norm that stays is computed in fp32 between int8 operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers._graph import Graph, attribute
from tasks.quantizers._scaling import multiplied

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def fold(model: ModelProto) -> None:
    """Fold each BatchNorm into the layer before it, or else into the layers behind it, where one of these is possible.

    Behind it, only layers without padding can take it: a padded zero is a zero behind the norm, not before it.
    """
    graph = Graph(model)
    for norm in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        constants = all(graph.is_constant(name) for name in norm.input[1:])
        if not constants or attribute(norm, "training_mode", 0) or len(norm.output) > 1:
            continue
        if _fold_backwards(graph, norm) or _fold_forwards(graph, norm):
            model.graph.node.remove(norm)
            graph.index()


def _affine(graph: Graph, norm: NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the summand that a norm has for each channel: float64, (channels,)."""
    scale, shift, mean, variance = (graph.constant(name).astype(float) for name in norm.input[1:])
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, shift - mean * factor


def _fold_backwards(graph: Graph, norm: NodeProto) -> bool:
    """Fold a norm into the layer whose output it alone reads; return whether that is possible."""
    layer = graph.producer.get(norm.input[0])
    if layer is None or graph.only_consumer(norm.input[0]) is None or not _has_bias(graph, layer):
        return False
    factor, summand = _affine(graph, norm)
    weight = graph.constant(layer.input[1])
    axis = 1 if layer.op_type == "Gemm" and not attribute(layer, "transB", 0) else 0
    shape = [1] * weight.ndim
    shape[axis] = -1
    bias = _bias(graph, layer, len(factor)) * factor + summand
    graph.replace(layer, 1, (weight * factor.reshape(shape)).astype(np.float32))
    _set_bias(graph, layer, bias)
    layer.output[0] = norm.output[0]
    return True


def _fold_forwards(graph: Graph, norm: NodeProto) -> bool:
    """Fold a norm into all layers that read its output; return whether that is possible."""
    name = norm.output[0]
    layers = graph.consumers.get(name, [])
    if not layers or name in graph.outputs or not all(_takes_norm(graph, layer, name) for layer in layers):
        return False
    factor, summand = _affine(graph, norm)
    for layer in layers:
        shifted = multiplied(graph, layer, summand)
        outputs = 1 if layer.op_type == "Gemm" and not attribute(layer, "transB", 0) else 0
        others = tuple(axis for axis in range(shifted.ndim) if axis != outputs)
        bias = _bias(graph, layer, shifted.shape[outputs]) + shifted.sum(others, dtype=float)
        graph.replace(layer, 1, multiplied(graph, layer, factor).astype(np.float32))
        _set_bias(graph, layer, bias)
        layer.input[0] = norm.input[0]
    return True


def _has_bias(graph: Graph, layer: NodeProto) -> bool:
    """Return whether a node is a convolution or Gemm whose weight and bias, if there is one, are constants."""
    if layer.op_type not in ("Conv", "Gemm") or not graph.is_constant(layer.input[1]):
        return False
    bias = layer.input[2] if len(layer.input) > 2 else ""
    scales = (attribute(layer, "alpha", 1.0), attribute(layer, "beta", 1.0))
    return (not bias or graph.is_constant(bias)) and scales == (1.0, 1.0) and not attribute(layer, "transA", 0)


def _takes_norm(graph: Graph, layer: NodeProto, name: str) -> bool:
    """Return whether a norm before a layer can be folded into it."""
    padded = any(attribute(layer, "pads", ())) or attribute(layer, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return layer.input[0] == name and _has_bias(graph, layer) and not padded


def _bias(graph: Graph, layer: NodeProto, channels: int) -> np.ndarray:
    """Return the bias of a layer, or zeros: float64, (channels,)."""
    if len(layer.input) < 3 or not layer.input[2]:
        return np.zeros(channels)
    return np.broadcast_to(graph.constant(layer.input[2]).astype(float).reshape(-1), (channels,))


def _set_bias(graph: Graph, layer: NodeProto, values: np.ndarray) -> None:
    del layer.input[2:]
    layer.input.append(graph.add(f"{layer.output[0]}:bias", values.astype(np.float32)))
