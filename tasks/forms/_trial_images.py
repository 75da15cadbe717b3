"""Labelled images on which ways to prepare images are tried: never those that prepare takes for testing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets import open_source
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import Bad, EncodedImage, decode_all
from tasks.datasets._find import resolve
from tasks.datasets._split import plan, sample
from tasks.measure.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.datasets._source import Part
    from tasks.datasets._split import LabelledRows
    from tasks.records import Data

MOST = 200
"""At most this many images are tried."""
DRAW = 5
"""Sets the draw of these images apart from the draws of the splits, which have the numbers below it."""


class TrialImages:
    """Labelled images in random order, decoded to a size when they are first needed at it."""

    def __init__(self, classes: Sequence[str], images: Sequence[EncodedImage], labels: Sequence[int]) -> None:
        self.classes = tuple(classes)
        """Names of the data's classes."""
        self._images: list[EncodedImage] = []
        self.grey = True
        """Whether none of the images has colour."""
        usable: list[int] = []
        sizes: set[tuple[int, ...]] = set()
        for image, label, decoded in zip(images, labels, decode_all(iter(images), None), strict=True):
            if not isinstance(decoded.pixels, Bad):
                self._images.append(image)
                usable.append(label)
                sizes.add(decoded.pixels.shape[:2])
                self.grey &= decoded.pixels.ndim == 2
        self.labels = np.array(usable, np.int64)
        """Class of each image, (images,)."""
        sides = {side for size in sizes for side in size}
        self.own_size = sides.pop() if len(sides) == 1 else None
        """Height and width in pixels, if all images are squares of one size."""
        self._pixels: dict[tuple[int, int | None], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, size: int, resize: int | None, count: int) -> np.ndarray:
        """Return the first `count` images: uint8, (count, size, size, 3), resized as the stage prepare does it."""
        known = self._pixels.get((size, resize), np.empty((0, size, size, 3), np.uint8))
        if len(known) < count:
            encoded = iter(self._images[len(known) : count])
            more = [_in_colour(image.pixels, size) for image in decode_all(encoded, size, resize)]
            known = self._pixels[size, resize] = np.concatenate([known, np.stack(more)])
        return known[:count]


def _in_colour(pixels: np.ndarray | Bad, size: int) -> np.ndarray:
    """Return pixels with three channels. An image too elongated to be resized, which prepare reports, is black."""
    if isinstance(pixels, Bad):
        return np.zeros((size, size, 3), np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def trial_images(settings: Data, log: logging.Logger, most: int = MOST) -> TrialImages | None:
    """Return up to `most` labelled images of the data that `settings` names, or None where no image has a label.

    They are training and validation images. Where all images are for testing, there are no others, and the log says so.
    """
    settings = resolve(settings)
    source = open_source(settings)
    parts: dict[str, Part] = {name: source.parts[name] for name in SPLITS if name in source.parts}
    labelled = {name: part for name, part in parts.items() if _has_labels(part) or name == "train" or len(parts) == 1}
    usable = {name: _usable(part, len(source.classes)) for name, part in labelled.items()}
    if not any(len(rows) for rows, _ in usable.values()):
        return None
    # The stage prepare logs how the splits are made.
    chosen = plan(usable, settings, logging.Logger("unheard", logging.CRITICAL + 1))
    places = [(part, row) for split, (part, rows) in chosen.items() if split != "test" for row in rows.tolist()]
    if not places:
        log.warning("all images are for testing, so that how images are prepared is tried on some of them")
        places = [(part, row) for part, rows in chosen.values() for row in rows.tolist()]
    labels = np.array([parts[part].labels[row] for part, row in places], np.int64)
    drawn = sample(labels, min(most, len(labels)), (settings.seed, DRAW))
    drawn = generator((settings.seed, DRAW, len(labels))).permutation(drawn)
    images = _read(parts, [places[position] for position in drawn])
    return TrialImages(source.classes, images, labels[drawn].tolist())


def _has_labels(part: Part) -> bool:
    """Return whether any row has a label. Test images are often published without, as null or -1."""
    return not set(part.labels) <= {None, -1}


def _usable(part: Part, classes: int) -> LabelledRows:
    """Return the rows of a part whose labels are good, as the stage prepare finds them."""
    good = {row: label for row, label in enumerate(part.labels) if label is not None and 0 <= label < classes}
    return np.array(list(good), np.int64), np.array(list(good.values()), np.int64)


def _read(parts: Mapping[str, Part], places: Sequence[tuple[str, int]]) -> list[EncodedImage]:
    """Return the images at these parts and rows, in this order. Sources read rows in ascending order alone."""
    images: dict[tuple[str, int], EncodedImage] = {}
    for name, part in parts.items():
        rows = sorted(row for part_name, row in places if part_name == name)
        for row, (image, image_name) in zip(rows, part.read(rows), strict=True):
            images[name, row] = EncodedImage(image, name, row, image_name)
    return [images[place] for place in places]
