"""Shared by the quantizers on ONNX Runtime: SmoothQuant moves outliers of activations into the weights behind them.

Xiao et al. 2022, SmoothQuant: accurate and efficient post-training quantization for large language models. A few
channels of a transformer's activations are far larger than the others, and one range for all is coarse for these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers import NothingToDoError, _scaling
from tasks.quantizers._graph import Graph, ranks

if TYPE_CHECKING:
    from onnx import ModelProto

    from tasks.quantizers import Calibration

ALPHAS = {"smooth15": 0.15, "smooth50": 0.5, "smooth95": 0.95}
"""Word of a setting's name -> alpha, the share of the difficulty that is moved into weights."""
NOTHING = "nothing to smooth: no LayerNormalization or linear operator stands directly before a matrix product"


def smooth(model: ModelProto, measured: ModelProto, calibration: Calibration, alpha: float) -> None:
    """Divide the channels that matrix products read by `activation ** alpha / weight ** (1 - alpha)`.

    Both are largest absolute values of a channel (equation 4 of the paper). The division goes into the normalization or
    linear operator before, so that the model has no operator more.

    Parameters
    ----------
    measured : a copy of the model, which is changed

    Raises
    ------
    NothingToDoError
        If no tensor can be divided.
    """
    graph = Graph(model)
    known = ranks(model)
    tensors = [tensor for tensor in _scaling.tokens(graph) if tensor.clip is None and tensor.name in known]
    if not tensors:
        raise NothingToDoError(NOTHING)
    activations = _scaling.largest(measured, {each.name: known[each.name] for each in tensors}, -1, calibration)
    # All factors come from the original weights, whatever is done to the tensor before.
    factors = [_factors(activations[each.name], _scaling.input_weights(graph, each.layers), alpha) for each in tensors]
    for tensor, each in zip(tensors, factors, strict=True):
        _scaling.apply(graph, tensor, each)


def _factors(activation: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """Return the factors by which channels are divided, from their largest absolute activation and weight."""
    used = (activation > 0) & (weight > 0)
    factors = np.where(used, activation, 1).astype(float) ** alpha / np.where(used, weight, 1) ** (1 - alpha)
    return np.where(used, factors, 1)
