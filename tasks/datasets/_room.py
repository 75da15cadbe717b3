"""Whether images of the size that is asked for fit on the disk and into memory, told before one is decoded."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from PIL import Image

from tasks.machine import quota
from tasks.machine.room import size

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Data

DISK_BYTES = 3
"""Per pixel of the decoded images, which are kept in colour until all are known to be grey."""
MEMORY_BYTES = 10
"""Per pixel of an image that is being resized: in colour three times (resized, cropped, as an array), one byte of
slack."""


def refuse_too_large(settings: Data, images: int, folder: Path) -> None:
    """Refuse an image size with which the images cannot be decoded on this machine, however much room is made on its
    disk.

    Parameters
    ----------
    settings
        Images that are not resized are not refused: their size is their own.
    images
        How many are to be decoded.
    folder
        Where they are written.

    Raises
    ------
    ValueError
        With the setting, what it would take, and what there is.
    """
    if settings.image_size is None:
        return
    side = max(settings.image_size, settings.resize or 0)
    disk, memory = images * settings.image_size**2 * DISK_BYTES, quota.usable_processors() * side**2 * MEMORY_BYTES
    # A disk that is only too full is said where the room is reserved.
    room = next(shutil.disk_usage(place).total for place in (folder, *folder.parents) if place.exists())
    available = quota.memory_available()
    most = Image.MAX_IMAGE_PIXELS or side**2
    if disk <= room and memory <= available and side**2 <= most:
        return
    name = "data.image_size" if side == settings.image_size else "data.resize"
    raise ValueError(
        f"{name} = {side}: {images:,} images would take {size(disk)} on the disk, which has {size(room)}, "
        f"and {size(memory)} of memory while they are decoded, where {size(available)} are available; an image "
        f"may have {int(most**0.5):,} pixels per side at most; choose a smaller {name}"
    )
