"""Shared by the quantizers on ONNX Runtime: make the channels that a convolution reads use the same range.

Nagel et al. 2019, Data-free quantization through weight equalization and bias correction, section 4.1, scales the
channels between two layers so that the ranges of both layers' weights are equal. Here each output channel of a weight
has a scale of its own, so that its rounding does not depend on the ranges of others. What has one range for all
channels is the activation between the layers: it takes the place of the first layer's weights, as in Meller et al.
2019, Same, same but different.

Through ReLU and LeakyReLU, or with nothing between, the function stays exactly equal. Through ReLU6 it stays equal on
the calibration images: channels that reach 6 keep their scale, the others stay below it. Other functions (SiLU,
Hardswish, GELU) allow no scaling, and tensors behind them stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers import NothingToDoError, _scaling
from tasks.quantizers._graph import Graph, attribute, ranks

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from tasks.quantizers import Calibration

SMALLEST = 2.0**-8
"""Smallest factor. A channel that is nearly always zero would be enlarged without limit otherwise."""
NOTHING = "nothing to equalise: between no two convolutions is there ReLU, ReLU6, LeakyReLU or nothing"


def equalise(model: ModelProto, measured: ModelProto, calibration: Calibration) -> None:
    """Scale the channels between convolutions.

    Parameters
    ----------
    measured : a copy of the model, which is changed

    Raises
    ------
    NothingToDoError
        If no tensor can be scaled.
    """
    graph = Graph(model)
    known = ranks(model)
    tensors = [tensor for tensor in _scaling.pixels(graph) if tensor.name in known]
    if not tensors:
        raise NothingToDoError(NOTHING)
    activations = _scaling.largest(measured, {each.name: known[each.name] for each in tensors}, 1, calibration)
    # All factors come from the original weights, whatever is done to the tensor before.
    factors = [_factors(graph, tensor, activations[tensor.name].astype(float)) for tensor in tensors]
    for tensor, each in zip(tensors, factors, strict=True):
        _scaling.apply(graph, tensor, each)


def _factors(graph: Graph, tensor: _scaling.Scalable, activation: np.ndarray) -> np.ndarray:
    """Return the factors by which the channels of a tensor are divided: float64, (channels,).

    They are at most 1: the largest channel keeps its range.
    """
    if not activation.any():
        return np.ones_like(activation)
    share = activation / activation.max()
    factors = share
    if not all(_is_depthwise(graph, layer) for layer in tensor.layers):
        # The weights of a layer that sums over channels share a scale: the two ranges are balanced.
        weights = _scaling.input_weights(graph, tensor.layers)
        factors = np.sqrt(share / np.maximum(weights / max(weights.max(), 1e-12), 1e-12))
    factors = np.clip(factors, np.maximum(share, SMALLEST), 1)
    if tensor.clip is not None:
        factors = np.where(activation >= tensor.clip, 1, np.maximum(factors, activation / tensor.clip))
    return np.where(activation > 0, factors, 1)


def _is_depthwise(graph: Graph, node: NodeProto) -> bool:
    """Return whether each output channel of a convolution reads one channel, so that their weights share no scale."""
    return attribute(node, "group", 1) > 1 and graph.initializers[node.input[1]].dims[1] == 1
