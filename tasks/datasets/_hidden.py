"""Files and folders whose names begin with a dot: they are not read, but the images among them are counted."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._decode import format_of
from tasks.datasets._filekinds import head_of
from tasks.datasets._words import counted, few, is_junk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
"""A file with one of these suffixes counts as an image without a look into it.

If decoding then shows that it is none, it is reported as a bad image and not silently left out.
"""


def is_hidden(name: str) -> bool:
    """Return whether the name of a file or folder begins with a dot."""
    return name.startswith(".")


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Return whether a file is an image, by its suffix or else by its first bytes, which `head` reads."""
    return name.lower().endswith(SUFFIXES) or format_of(head()) is not None


def images_in(path: Path, root: Path) -> int:
    """Return the number of images in a hidden folder, or 1 or 0 for a hidden file.

    A link to something that is read as part of `root` anyway has none.
    """
    if path.is_symlink() and path.resolve().is_relative_to(root.resolve()):
        return 0
    if path.is_file():
        return int(is_image(path.name, lambda: head_of(path)))
    count = 0
    for folder, folders, names in os.walk(path, onerror=_raise):
        # os.walk goes into the folders that this list still holds.
        folders[:] = [name for name in folders if not is_junk(name, folder=True)]
        for name in names:
            file = Path(folder, name)
            if not is_junk(name) and file.is_file():
                count += is_image(name, partial(head_of, file))
    return count


def _raise(error: OSError) -> None:
    """Raise the error of a folder that cannot be read. Without this, os.walk would leave the folder out silently."""
    raise error


def hidden_images(hidden: Mapping[str, int]) -> str:
    """Return in words which images are hidden, given their number per file or folder; an empty text if none are."""
    total = sum(hidden.values())
    if not total:
        return ""
    holders = [f"{name} ({count})" if count > 1 else name for name, count in sorted(hidden.items()) if count]
    names = "names that begin" if total > 1 else "a name that begins"
    return f"{counted(total, 'image')} hidden by {names} with a dot: {few(holders)}"
