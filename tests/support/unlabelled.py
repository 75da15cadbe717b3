"""Images without labels in arbitrary folders, and a small model that gives them several classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from PIL import Image

from tests.support.given import SIZE, classifier, executed

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 80
MEAN, STD = 0.5, 0.25


def unlabelled(folder: Path) -> tuple[Path, Path, np.ndarray]:
    """Write the model's file and a folder of images. Return both, and the class that the model gives each image.

    The classes are in the order of the images' paths.
    """
    model = folder / "small.onnx"
    onnx.save(classifier(), model)
    colours = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 1, 3), np.uint8)
    pixels = np.broadcast_to(colours, (IMAGES, SIZE, SIZE, 3))
    # In the order of paths, those in the deeper folder come first.
    for number, image in enumerate(pixels):
        inner = folder / "photos" / ("camera/monday" if number < IMAGES // 2 else "old")
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(inner / f"{number:03}.png")
    inputs = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return model, folder / "photos", executed(model, inputs).argmax(axis=1)
