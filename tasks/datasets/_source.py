"""What a source of images holds, and where it lies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.files import file_sha256

if TYPE_CHECKING:
    from tasks.datasets._decode import Encoded
    from tasks.records import Data

HASHED_BYTES = 2 << 30
"""Files of fewer bytes in total are fingerprinted by their content, larger sets by names, sizes and times.

Reading 2 GiB to hash them takes seconds; a set of 150 GB would delay every run by minutes.
"""


@dataclass(frozen=True)
class Part:
    """A part of a source: images that belong together, e.g. its training images, in row order."""

    labels: Sequence[int | None]
    """Class index of each row as the source has it, which may be out of range. None is a null label."""
    read: Callable[[Sequence[int]], Iterator[tuple[Encoded, str]]]
    """Takes row numbers in ascending order, and yields each row's image and name, lazily and in bounded memory."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Encoded, int | None, str]]:
        for (image, name), label in zip(self.read(range(self.rows)), self.labels, strict=True):
            yield image, label, name


@dataclass(frozen=True)
class Unused:
    """Something at data.path that is not used."""

    description: str
    """How many things of what kind, and why, e.g. "3 images in data.path beside the class folders"."""
    lost_images: int = 0
    """Number of images among it that could have been used."""
    harmless: bool = False
    """Whether it needs no warning, like the files that an operating system leaves in every folder."""


@dataclass(frozen=True)
class Images:
    """The images of a source, and how they were found."""

    classes: tuple[str, ...]
    """Class names, in the order of their indices."""
    parts: dict[str, Part]
    """The source's parts: any of "train", "validation" and "test". A source without splits has "train" alone."""
    layout: str = "the data set's own"
    """How the source was read, in words: which folders, files and columns give classes, splits, images and labels."""
    unused: tuple[Unused, ...] = ()
    lost_classes: tuple[str, ...] = ()
    """Classes without a single image that is used, each with the reason."""
    merged_classes: tuple[str, ...] = ()
    """Classes whose images come from several folders, each with the number of images per folder."""


@dataclass(frozen=True)
class Source:
    """An opened source. Its images are located when they are first needed."""

    load: Callable[[], Images]
    fingerprint: Callable[[], str]
    """Returns a SHA-256 in hex digits that changes when the content changes."""

    @cached_property
    def images(self) -> Images:
        """The images, located once."""
        return self.load()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their indices."""
        return self.images.classes

    @property
    def parts(self) -> dict[str, Part]:
        """The source's parts by name."""
        return self.images.parts


def location(data: Data) -> Path:
    """Return data.path as a path, or the folder that keeps downloads if data.path is empty."""
    return Path(data.path).expanduser() if data.path else Path.home() / ".cache" / "burnish"


def fingerprint(files: Sequence[Path], root: Path) -> str:
    """Return a SHA-256 of the files' names relative to `root` and of their content.

    For files of `HASHED_BYTES` and more in total, sizes and times of change stand for the content.
    """
    stats = [(path, path.stat()) for path in files]
    is_small = sum(stat.st_size for _, stat in stats) < HASHED_BYTES
    lines = hashlib.sha256()
    for path, stat in stats:
        content = file_sha256(path) if is_small else f"{stat.st_size} {stat.st_mtime_ns}"
        # File names may hold bytes that are not UTF-8.
        name = os.fsencode(path.relative_to(root).as_posix())
        lines.update(name + f"\0{content}\n".encode())
    return lines.hexdigest()
