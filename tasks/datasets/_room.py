"""Check that images of the size that the user set fit on the disk and into memory, before any of them is decoded."""

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
"""Bytes on the disk per pixel of a decoded image. Images are kept in colour until all are known to be grey."""
MEMORY_BYTES = 10
"""Bytes of memory per pixel of an image while it is decoded.

It is there in colour three times (resized, cropped, and as an array); one more byte is slack.
"""


def refuse_too_large(settings: Data, images: int, folder: Path) -> None:
    """Refuse an image size that this machine cannot decode the images to, even if its disk were empty.

    A disk that is merely too full is reported later, when the room is reserved.

    Parameters
    ----------
    settings
        Without `image_size` nothing is refused, because images keep their size then.
    images
        Number of images that will be decoded.
    folder
        The folder to which the images will be written. It need not exist yet.

    Raises
    ------
    ValueError
        With the setting, the bytes that the images would take, and those that the machine has.
    """
    if settings.image_size is None:
        return
    side = max(settings.image_size, settings.resize or 0)
    disk_needed = images * settings.image_size**2 * DISK_BYTES
    disk_size = next(shutil.disk_usage(place).total for place in (folder, *folder.parents) if place.exists())
    # Each processor decodes one image at a time.
    memory_needed = quota.usable_processors() * side**2 * MEMORY_BYTES
    memory_available = quota.memory_available()
    max_pixels = Image.MAX_IMAGE_PIXELS or side**2
    if disk_needed <= disk_size and memory_needed <= memory_available and side**2 <= max_pixels:
        return
    name = "data.image_size" if side == settings.image_size else "data.resize"
    raise ValueError(
        f"{name} = {side}: {images:,} images would take {size(disk_needed)} on the disk, which has {size(disk_size)}, "
        f"and {size(memory_needed)} of memory while they are decoded, where {size(memory_available)} are available; "
        f"an image may have {int(max_pixels**0.5):,} pixels per side at most; choose a smaller {name}"
    )
