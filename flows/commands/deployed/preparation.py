"""Turn a picture into the model's input, exactly as when the model was measured. preparation.json has the settings."""

from __future__ import annotations

from typing import Any

import numpy
from decode import decode
from pixels import normalise


def with_channels(pixels: numpy.ndarray, channels: int) -> numpy.ndarray:
    """Return a decoded image with as many channels as the model takes: uint8, (1, height, width, channels)."""
    if channels == 1 and pixels.ndim == 3:
        from PIL import Image

        pixels = numpy.asarray(Image.fromarray(pixels).convert("L"))
    shaped = pixels if pixels.ndim == 3 else numpy.repeat(pixels[..., None], channels, axis=2)
    return shaped[None]


def decoded(image: bytes, preparation: dict[str, Any]) -> numpy.ndarray:
    """Decode an image file, resize and crop it: uint8, (1, height, width, channels)."""
    pixels = decode(image, preparation["image_size"], preparation["resize"])
    return with_channels(pixels, preparation["channels"])


def prepare(image: bytes, preparation: dict[str, Any]) -> numpy.ndarray:
    """Return the model's input for an image file: float32, (1, channels, height, width)."""
    return normalise(decoded(image, preparation), preparation["mean"], preparation["std"])
