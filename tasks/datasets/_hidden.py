"""Files and folders whose names begin with a dot: what tools leave is no data; hidden images are counted, and said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._decode import format_of
from tasks.datasets._filekinds import head_of
from tasks.datasets._words import counted, few, is_junk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
"""Files so called are not looked into before they are decoded: what is no image is then a bad image, and never left
out."""


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image, by its suffix or else by its first bytes."""
    return name.lower().endswith(SUFFIXES) or format_of(head()) is not None


def images_in(path: Path, root: Path) -> int:
    """Number of images that a hidden file or folder is or holds; none where it is a link to what is read as `root`
    anyway."""
    if path.is_symlink() and path.resolve().is_relative_to(root.resolve()):
        return 0
    if path.is_file():
        return int(is_image(path.name, lambda: head_of(path)))
    count = 0
    for folder, folders, names in os.walk(path, onerror=_cannot_be_read):
        folders[:] = [name for name in folders if not is_junk(name, folder=True)]
        files = (Path(folder, name) for name in names if not is_junk(name))
        count += sum(is_image(file.name, lambda file=file: head_of(file)) for file in files if file.is_file())  # type: ignore[misc]
    return count


def _cannot_be_read(error: OSError) -> None:
    """os.walk leaves out what it cannot read unless this raises."""
    raise error


def hidden_images(hidden: Mapping[str, int]) -> str:
    """Hidden images in words; empty where there are none."""
    total = sum(hidden.values())
    found = [f"{name} ({count})" if count > 1 else name for name, count in sorted(hidden.items()) if count]
    names = "names that begin" if total > 1 else "a name that begins"
    return f"{counted(total, 'image')} hidden by {names} with a dot: {few(found)}" if total else ""
