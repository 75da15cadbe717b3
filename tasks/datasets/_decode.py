"""From what a source gives to uint8 pixels of one size."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from tasks.datasets import Encoded

# What is tried on bytes from outside: Pillow can also hand EPS to Ghostscript, which a data set must not reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


BATCH = 32  # images that a thread is handed at a time


class Bad(Exception):
    """An image that cannot be used: (reason, detail)."""


class Job(NamedTuple):
    """An image to decode."""

    image: Encoded
    part: str
    row: int
    name: str
    """What the source calls it."""


class Done(NamedTuple):
    """An image decoded, or why not."""

    part: str
    row: int
    name: str
    pixels: np.ndarray | Bad
    digest: bytes
    """Of the pixels as RGB, so that a greyscale image equals its RGB copy."""


def decode_all(jobs: Iterator[Job], size: int | None, resize: int | None = None) -> Iterator[Done]:
    """Decode in threads (Pillow's decoders release the interpreter's lock), in order and with few images in memory."""
    from tasks import quota  # late: `burnish deploy` copies this file beside the server, which runs without burnish

    workers = quota.usable_processors()
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[list[Done]]] = deque()
        while batch := list(islice(jobs, BATCH)):
            ahead.append(pool.submit(_decode_batch, batch, size, resize))
            if len(ahead) > workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _decode_batch(jobs: list[Job], size: int | None, resize: int | None) -> list[Done]:
    return [_decode_one(job, size, resize) for job in jobs]


def _decode_one(job: Job, size: int | None, resize: int | None) -> Done:
    try:
        pixels = decode(job.image, size, resize)
    except Bad as bad:
        return Done(job.part, job.row, job.name, bad, b"")
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return Done(job.part, job.row, job.name, pixels, blake2b(rgb.tobytes(), digest_size=16).digest())


def decode(image: Encoded, size: int | None, resize: int | None = None) -> np.ndarray:
    """Upright uint8 pixels, (height, width) if greyscale, else (height, width, 3).

    Transparent pixels are laid on white; 16-bit greyscale keeps its upper 8 bits; of several frames the first is taken.

    Parameters
    ----------
    image
        As a source gives it.
    size
        Height and width of the square cropped from the centre; None: the image as it is.
    resize
        The shorter side is resized to this before (bicubic, antialiased); None: to `size`.

    Raises
    ------
    Bad
        Null or empty, not an image, cut off, of absurd size, or of a kind of pixel without a known range.
    """
    if image is None:
        raise Bad("null image", "")
    try:
        if isinstance(image, Path):
            image = image.read_bytes()
        if isinstance(image, bytes) and not image:
            raise Bad("empty image", "0 bytes")
        picture = _eight_bit(ImageOps.exif_transpose(_open(image)))
    except Bad:
        raise
    except UnidentifiedImageError:
        raise Bad("undecodable image", "of no known format") from None  # Pillow's message holds an address
    except (
        Exception
    ) as error:  # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise Bad("undecodable image", " ".join(str(error).split()) or type(error).__name__) from error
    return np.asarray(picture if size is None else _fit(picture, size, resize or size))


def _open(image: bytes | np.ndarray | Image.Image) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, bytes):
        picture = Image.open(io.BytesIO(image), formats=FORMATS)
        picture.load()
        return picture
    return image


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Mode L or RGB."""
    if picture.mode in ("L", "RGB"):
        if "transparency" not in picture.info:
            return picture
    elif picture.mode.startswith("I"):  # 16-bit greyscale; Pillow reads some as 32-bit integers
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit integer pixels have no known range")
        return Image.fromarray((values >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    elif picture.mode == "1":
        return picture.convert("L")
    if picture.has_transparency_data:
        grey = picture.mode in ("L", "LA", "La")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("L" if grey else "RGB")
    return picture.convert("RGB")


def _fit(picture: Image.Image, size: int, resize: int) -> Image.Image:
    """Shorter side to `resize`, then the centre: the arithmetic of torchvision's Resize and CenterCrop."""
    width, height = picture.size
    short = min(width, height)
    if short != resize:
        width, height = (resize if side == short else max(resize, resize * side // short) for side in (width, height))
        if width * height > (Image.MAX_IMAGE_PIXELS or 0):
            raise Bad("undecodable image", f"{picture.width}x{picture.height} pixels are too elongated to resize")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
