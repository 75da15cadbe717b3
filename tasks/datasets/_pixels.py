"""Turn stored pixels into the input of a model. NumPy does it for every runtime, so that all get the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence


def normalise(images: numpy.ndarray, mean: Sequence[float], std: Sequence[float]) -> numpy.ndarray:
    """Return images as models take them: scaled to 0..1, less the mean, over the standard deviation, channels first.

    Parameters
    ----------
    images
        uint8, (batch, height, width, channels).
    mean, std
        One value per channel, of pixels scaled to 0..1, in the channels' order (RGB).

    Returns
    -------
    float32, (batch, channels, height, width), contiguous.
    """
    scaled = (images / numpy.float32(255) - numpy.asarray(mean, "float32")) / numpy.asarray(std, "float32")
    return numpy.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
