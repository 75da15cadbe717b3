"""What figures on a data set are to be called, told from its content: a path says nothing, and copies and parts go
about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._find import resolve
from tasks.datasets._words import shown

if TYPE_CHECKING:
    from tasks.datasets import Encoded, Source
    from tasks.records import Data

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OF_CIFAR100 = {"aquarium_fish", "maple_tree", "pickup_truck", "sweet_pepper", "willow_tree"}
WNID = re.compile(r"n\d{8}")
JPEG = b"\xff\xd8"
LOOKED_AT = 20
"""Rows of the first part that are looked at for one whose image is there."""


def label(settings: Data, source: Source) -> str:
    """The name of a known data set, with what a copy or a part of it is to be told apart by; else its path or source.

    CIFAR's own images are lossless, so one that is kept as JPEG is of a recompressed copy. Tiny ImageNet has 100,000
    training images and ImageNet 50,000 to validate with: fewer are a part.
    """
    names, rows = source.classes, sum(part.rows for part in source.parts.values())
    lossy = ", JPEG-recompressed copy"
    if tuple(name.lower() for name in names) == CIFAR10:
        return "CIFAR-10" + (lossy if _is_jpeg(_first(source)) else "")
    if len(names) == 100 and set(names) >= OF_CIFAR100:
        return "CIFAR-100" + (lossy if _is_jpeg(_first(source)) else "")
    if len(names) in (200, 1000) and all(WNID.fullmatch(name) for name in names):
        known, whole = ("Tiny ImageNet", 100_000) if len(names) == 200 else ("ImageNet-1k", 50_000)
        return known if rows >= whole else f"{known}, a subset of {rows} images"
    return shown(settings.path) or resolve(settings).source


def _first(source: Source) -> Encoded:
    part = next(iter(source.parts.values()))
    found = (image for image, _ in part.read(range(min(part.rows, LOOKED_AT))))
    return next((image for image in found if image is not None and not (isinstance(image, bytes) and not image)), None)


def _is_jpeg(image: Encoded) -> bool:
    if isinstance(image, Path):
        with image.open("rb") as file:
            return file.read(len(JPEG)) == JPEG
    return isinstance(image, bytes) and image.startswith(JPEG)
