"""Find out from its content what a data set is called. A path does not tell, and copies and subsets are common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._find import resolve
from tasks.datasets._words import shown

if TYPE_CHECKING:
    from tasks.datasets._decode import Encoded
    from tasks.datasets._source import Source
    from tasks.records import Data

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OF_CIFAR100 = {"aquarium_fish", "maple_tree", "pickup_truck", "sweet_pepper", "willow_tree"}
"""Five of the 100 classes of CIFAR-100, by which it is recognised."""
WNID = re.compile(r"n\d{8}")
"""A WordNet ID, by which ImageNet names its classes."""
JPEG = b"\xff\xd8"
"""First bytes of a JPEG file."""
SEARCHED_ROWS = 20
"""This many rows of the first part are searched for one that has an image."""


def label(settings: Data, source: Source) -> str:
    """Return what to call a data set in tables and reports.

    For a known data set that is its name, and what distinguishes a copy or a subset from the original: CIFAR's images
    are lossless, so that JPEG files are a recompressed copy; Tiny ImageNet has 100,000 training images and ImageNet
    50,000 validation images, so that fewer are a subset. Any other data set is called by its path or its source.
    """
    names = source.classes
    if tuple(name.lower() for name in names) == CIFAR10:
        return f"CIFAR-10{_copy_mark(source)}"
    if len(names) == 100 and set(names) >= OF_CIFAR100:
        return f"CIFAR-100{_copy_mark(source)}"
    if len(names) in (200, 1000) and all(WNID.fullmatch(name) for name in names):
        known_name, known_rows = ("Tiny ImageNet", 100_000) if len(names) == 200 else ("ImageNet-1k", 50_000)
        rows = sum(part.rows for part in source.parts.values())
        return known_name if rows >= known_rows else f"{known_name}, a subset of {rows} images"
    return shown(settings.path) or resolve(settings).source


def _copy_mark(source: Source) -> str:
    """Return what to add to the name of a lossless data set if its images are JPEG files."""
    return ", JPEG-recompressed copy" if _is_jpeg(_first_image(source)) else ""


def _first_image(source: Source) -> Encoded:
    """Return the first image of the first part that is neither null nor empty, or None."""
    part = next(iter(source.parts.values()))
    for image, _ in part.read(range(min(part.rows, SEARCHED_ROWS))):
        if image is not None and not (isinstance(image, bytes) and not image):
            return image
    return None


def _is_jpeg(image: Encoded) -> bool:
    """Return whether an image is a JPEG file."""
    if isinstance(image, Path):
        with image.open("rb") as file:
            return file.read(len(JPEG)) == JPEG
    return isinstance(image, bytes) and image.startswith(JPEG)
