"""Sources of images, one file per source, found by file name.

A source is a module with a function `open(data: Data) -> Source`. Opening one is cheap: nothing is read, downloaded or
imported before its images or its fingerprint are asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.machine.files import file_sha256

if TYPE_CHECKING:
    from PIL import Image

    from tasks.datasets._decode import Bad
    from tasks.records import Data

    Encoded = bytes | Path | np.ndarray | Image.Image | Bad | None
    """An image file's bytes or its path, uint8 pixels (height, width[, channels]), a picture; None: a null image; or
    why it could not be read."""

HASHED_BYTES = 2 << 30
"""Files of up to this many bytes together are fingerprinted by their content, larger sets by names, sizes and times."""


@dataclass(frozen=True)
class Part:
    """Images of a source that belong together, in row order."""

    labels: Sequence[int | None]
    """Class index of each row as the source has it, in range or not; None: the label is null."""
    read: Callable[[Sequence[int]], Iterator[tuple[Encoded, str]]]
    """Rows in ascending order -> (image, what the source calls it) of each, lazily and in bounded memory."""

    @property
    def rows(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Encoded, int | None, str]]:
        for (image, name), label in zip(self.read(range(self.rows)), self.labels, strict=True):
            yield image, label, name


@dataclass(frozen=True)
class Left:
    """Something at data.path that is not used."""

    said: str
    """How many of what, and why, e.g. "3 images in data.path beside the class folders"."""
    lost: int = 0
    """Images that are lost by it, of those that could have been used."""
    harmless: bool = False
    """Whether it needs no warning: what a system leaves in every folder."""


@dataclass(frozen=True)
class Images:
    """What a source holds."""

    classes: tuple[str, ...]
    parts: dict[str, Part]
    """Of "train", "validation" and "test" those that it has; a source without splits has "train" alone."""
    layout: str = "the data set's own"
    """How it was read, in words: which folders, files and columns are the classes, splits, images and labels."""
    left: tuple[Left, ...] = ()
    """What is not used."""
    lost: tuple[str, ...] = ()
    """Classes of which no image is used, with the reason."""
    merged: tuple[str, ...] = ()
    """Classes whose images come from several folders, with the number of each."""


@dataclass(frozen=True)
class Source:
    """A source, opened; its images are located when they are first asked for."""

    load: Callable[[], Images]
    fingerprint: Callable[[], str]
    """SHA-256 in hex that changes when the content changes."""

    @cached_property
    def images(self) -> Images:
        return self.load()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def parts(self) -> dict[str, Part]:
        return self.images.parts


def open_source(data: Data) -> Source:
    """Open the source that `data` names, or that lies at data.path.

    Raises
    ------
    ValueError
        Here or when its images are asked for: nothing is at data.path, or it is not what the source reads.
    """
    from tasks.datasets._find import resolve

    data = resolve(data)
    return importlib.import_module(f"tasks.datasets.{data.source}").open(data)


def location(data: Data) -> Path:
    """data.path as a path, or where downloads are kept if it is empty."""
    return Path(data.path).expanduser() if data.path else Path.home() / ".cache" / "burnish"


def fingerprint(files: Sequence[Path], root: Path) -> str:
    """SHA-256 of the files' names relative to `root` and of their content (above `HASHED_BYTES`: sizes and times)."""
    found = [(path, path.stat()) for path in files]
    small = sum(stat.st_size for _, stat in found) < HASHED_BYTES
    lines = hashlib.sha256()
    for path, stat in found:
        content = file_sha256(path) if small else f"{stat.st_size} {stat.st_mtime_ns}"
        # not every name is UTF-8
        name = os.fsencode(path.relative_to(root).as_posix())
        lines.update(name + f"\0{content}\n".encode())
    return lines.hexdigest()
