"""From stored pixels to what a model takes; NumPy alone, so that every runtime is fed alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence


def normalise(images: numpy.ndarray, mean: Sequence[float], std: Sequence[float]) -> numpy.ndarray:
    """(x / 255 - mean) / std: uint8 (batch, height, width, channels) -> contiguous float32 (batch, channels, ...)."""
    scaled = (images / numpy.float32(255) - numpy.asarray(mean, "float32")) / numpy.asarray(std, "float32")
    return numpy.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
