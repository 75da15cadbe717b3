"""Makes image files and folders of images, and says what the source that burnish opens for them holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.datasets import open_source
from tasks.datasets._source import Source
from tasks.records import Data

ImageCounts = dict[str, dict[str, int]]
"""Part of the source -> class -> number of images."""


def picture(number: int, form: str = "PNG") -> bytes:
    """Return an image file whose content differs for each number."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def tree(root: Path, names: dict[str, int]) -> Path:
    """Write a tree of images, each with different content. `names` says how many images each folder gets."""
    number = 0
    for name, count in names.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            number += 1
            (root / name / f"{i:03}.png").write_bytes(picture(number))
    return root


def opened(root: Path, **more: Any) -> Source:
    return open_source(Data(path=str(root), **more))


def counts(source: Source) -> ImageCounts:
    """Return how many images each part of a source has per class."""
    return {
        split: {name: list(part.labels).count(i) for i, name in enumerate(source.classes) if i in part.labels}
        for split, part in source.parts.items()
    }


def unused_descriptions(source: Source) -> list[str]:
    """Return the descriptions of the files that the source does not use."""
    return [unused.description for unused in source.images.unused]
