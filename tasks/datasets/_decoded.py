"""Decode the chosen rows of a data set into one array on the disk."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from statistics import median
from typing import IO, TYPE_CHECKING

import numpy as np

from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import Bad, DecodedImage, EncodedImage, Traits, decode_all
from tasks.datasets._notes import BadRow
from tasks.datasets._statistics import chunks
from tasks.machine.space import reserve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.datasets._source import Part
    from tasks.records import Data

SAMPLED_SIZES = 256
"""To recommend an image size, the sizes of this many further images are looked at."""


@dataclass
class Pixels:
    """Decoded images, in the order of decoding, with three channels until it is known that all are greyscale."""

    images: np.ndarray
    """uint8, (images to decode, height, width, 3), read-only. Empty until all are decoded."""
    side: int = 0
    """Height and width of each image in pixels, or 0 as long as none is decoded."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """Label and split of each image, the split as its position in `SPLITS`."""
    digests: list[bytes] = field(default_factory=list)
    """Hash of the pixels of each image."""
    names: list[str] = field(default_factory=list)
    """The name that the source gives to each image. All are empty if it has no names."""
    traits: list[Traits] = field(default_factory=list)
    colour: bool = False
    """Whether any of the images has colour."""


def decode_rows(
    work: Work, folder: Path, parts: dict[str, Part], chosen: dict[str, tuple[str, np.ndarray]], *, settings: Data
) -> tuple[Pixels, list[BadRow]]:
    """Decode the chosen rows of each split into a file in `folder`, and return the images and the bad rows."""
    split_of: dict[str, dict[int, int]] = {part: {} for part in parts}
    for split, (part, rows) in chosen.items():
        split_of[part].update(dict.fromkeys(rows.tolist(), SPLITS.index(split)))
    total = sum(len(rows) for rows in split_of.values())
    pixels = Pixels(np.empty(0))
    bad = []
    reported = time.monotonic()
    encoded = _encoded_images(parts, split_of)
    decoded = decode_all(encoded, settings.image_size, settings.resize)
    path = folder / "decoded.npy"
    with path.open("wb") as file:
        for number, image in enumerate(decoded, 1):
            if isinstance(image.pixels, Bad):
                reason, detail = image.pixels.args
                bad.append(BadRow(image.part, image.row, reason, detail, image.name))
            if time.monotonic() - reported > 1 or number == total:
                work.progress(number, total, _progress_text(number, total, len(bad)))
                reported = time.monotonic()
            if isinstance(image.pixels, Bad):
                continue
            height, width, *_ = image.pixels.shape
            if height != width or pixels.side not in (0, height):
                raise _sizes_differ(pixels, image, decoded)
            if not pixels.rows:
                pixels.side = height
                _begin(file, work, (total, height, width, 3))
            class_index = parts[image.part].labels[image.row] or 0
            _append(file, pixels, image, (class_index, split_of[image.part][image.row]))
    if pixels.rows:
        pixels.images = np.load(path, mmap_mode="r")
    return pixels, bad


def _append(file: IO[bytes], pixels: Pixels, image: DecodedImage, label_and_split: tuple[int, int]) -> None:
    """Write a decoded image to the file, in three channels, and note its label, split, digest, name and traits."""
    assert isinstance(image.pixels, np.ndarray)
    is_colour = image.pixels.ndim == 3
    with_channels = image.pixels if is_colour else image.pixels[..., None]
    file.write(np.broadcast_to(with_channels, (pixels.side, pixels.side, 3)).tobytes())
    pixels.rows.append(label_and_split)
    pixels.digests.append(image.digest)
    pixels.names.append(image.name)
    pixels.traits.append(image.traits)
    pixels.colour |= is_colour


def _progress_text(number: int, total: int, failed: int) -> str:
    """Return in words how many of all images are decoded, and how many cannot be."""
    return f"decoded {number - failed} of {total} images" + (f", {failed} cannot be decoded" if failed else "")


def _begin(file: IO[bytes], work: Work, shape: tuple[int, ...]) -> None:
    """Write the header of an npy file of uint8, and reserve the room for the whole file.

    The images are then written to the file and not to a memory map of it: with a map, a full or broken disk would end
    the process with a signal (SIGBUS).
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    reserve(file, work.store.root.parent, len(header.getvalue()) + prod(shape), f"{shape[0]} decoded images")
    file.write(header.getvalue())


def _encoded_images(parts: dict[str, Part], split_of: dict[str, dict[int, int]]) -> Iterator[EncodedImage]:
    """Yield the images of the rows that `split_of` has, part by part, in the order of their rows."""
    for part, split_of_row in split_of.items():
        rows = sorted(split_of_row)
        for row, (image, name) in zip(rows, parts[part].read(rows), strict=True):
            yield EncodedImage(image, part, row, name)


def _sizes_differ(pixels: Pixels, image: DecodedImage, following: Iterator[DecodedImage]) -> ValueError:
    """Return the error for an image that is not square, or not of the size of those before it.

    It recommends the median of the shorter sides of all images so far and of some that follow.
    """
    sizes = [(pixels.side, pixels.side)] * len(pixels.rows)
    sampled = (image, *islice(following, SAMPLED_SIZES))
    sizes += [np.shape(other.pixels)[:2] for other in sampled if not isinstance(other.pixels, Bad)]
    median_side = int(median(min(size) for size in sizes))
    assert isinstance(image.pixels, np.ndarray)
    height, width = image.pixels.shape[:2]
    description = f"{width}x{height} pixels in row {image.row} of the {image.part} part"
    if image.name:
        description += f" ({image.name})"
    if pixels.rows:
        description = f"{pixels.side}x{pixels.side} and {description}"
    return ValueError(
        f"images must be square and of one size, or be made so: there are {description}; set data.image_size, "
        f"e.g. data.image_size={median_side}, the median shorter side of {len(sizes)} images"
    )


def compact(work: Work, folder: Path, pixels: Pixels) -> np.ndarray:
    """Write images.npy: without the room of images that were dropped, and with one channel if all are greyscale."""
    path = folder / "images.npy"
    count = len(pixels.rows)
    if pixels.colour and count == len(pixels.images):
        (folder / "decoded.npy").rename(path)
        return pixels.images
    shape = (count, *pixels.images.shape[1:3], 3 if pixels.colour else 1)
    with path.open("wb") as file:
        _begin(file, work, shape)
        for chunk in chunks(pixels.images, count):
            file.write(pixels.images[chunk, ..., : shape[3]].tobytes())
    return np.load(path, mmap_mode="r")
