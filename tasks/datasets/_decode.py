"""From what a source gives to uint8 pixels of one size."""

from __future__ import annotations

import io
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

_MAGIC = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\0\0\x01\0", "ICO"),
    (128, b"DICM", "DICOM"),
    (0, b"<svg", "SVG"),
)
"""(Offset, bytes there, name of the format)."""

# What Pillow decodes, it need not warn of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# EXIF tag
ORIENTATION = 0x0112
# offset of the bits per channel in a PNG file
PNG_DEPTH = 24
# bytes of a file by which its format is told
HEAD = 512
# images that a thread is handed at a time, at most
BATCH = 32
# of their pixels, unless one alone has more
BATCH_BYTES = 64 << 20


def format_of(head: bytes) -> str | None:
    """Format of an image file by its first bytes (132 tell all), whether it is in `FORMATS` or not; None: no image."""
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return "camera raw" if name == "TIFF" and head[8:10] == b"CR" else name
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:2] == b"BM" and head[14:18] in (
        b"\x0c\0\0\0",
        b"(\0\0\0",
        b"4\0\0\0",
        b"8\0\0\0",
        b"@\0\0\0",
        b"l\0\0\0",
        b"|\0\0\0",
    ):
        return "BMP"
    return "SVG" if head.startswith(b"<?xml") and b"<svg" in head else None


class Bad(Exception):
    """An image that cannot be used: (reason, detail)."""


class Job(NamedTuple):
    """An image to decode."""

    image: Encoded
    part: str
    row: int
    name: str
    """What the source calls it."""


@dataclass
class Seen:
    """What of an image file is not in the pixels that it is decoded to."""

    several_frames: bool = False
    """The first frame was taken."""
    turned: bool = False
    """It was turned upright, as its EXIF says."""
    highest: int | None = None
    """Of pixels with 16 bits per channel: the highest value. Their upper 8 bits were taken."""


class Done(NamedTuple):
    """An image decoded, or why not."""

    part: str
    row: int
    name: str
    pixels: np.ndarray | Bad
    digest: bytes
    """Of the pixels as RGB, so that a greyscale image equals its RGB copy."""
    seen: Seen


def decode_all(jobs: Iterator[Job], size: int | None, resize: int | None = None) -> Iterator[Done]:
    """Decode in threads (Pillow's decoders release the interpreter's lock), in order and with few images in memory."""
    # late: `burnish deploy` copies this file beside the server, which runs without burnish
    from tasks.machine import quota

    workers = quota.usable_processors()
    together = max(1, min(BATCH, BATCH_BYTES // (3 * (size or 1) ** 2)))
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[list[Done]]] = deque()
        while batch := list(islice(jobs, together)):
            ahead.append(pool.submit(_decode_batch, batch, size, resize))
            if len(ahead) > workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _decode_batch(jobs: list[Job], size: int | None, resize: int | None) -> list[Done]:
    return [_decode_one(job, size, resize) for job in jobs]


def _decode_one(job: Job, size: int | None, resize: int | None) -> Done:
    seen = Seen()
    try:
        pixels = decode(job.image, size, resize, seen)
    except Bad as bad:
        return Done(job.part, job.row, job.name, bad, b"", seen)
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return Done(job.part, job.row, job.name, pixels, blake2b(rgb.tobytes(), digest_size=16).digest(), seen)


def decode(image: Encoded, size: int | None, resize: int | None = None, seen: Seen | None = None) -> np.ndarray:
    """Upright uint8 pixels, (height, width) if greyscale, else (height, width, 3).

    Images are turned as their EXIF orientation says. Transparent pixels are laid on white; of 16 bits per channel the
    upper 8 are kept; of several frames the first is taken.

    Parameters
    ----------
    image
        As a source gives it.
    size
        Height and width of the square cropped from the centre; None: the image as it is.
    resize
        The shorter side is resized to this before (bicubic, antialiased); None: to `size`.
    seen
        Is told what of the file the pixels do not show.

    Raises
    ------
    Bad
        Null or empty, not an image, cut off, of absurd size, or of a kind of pixel without a known range.
    """
    if image is None:
        raise Bad("null image", "")
    if isinstance(image, Bad):
        raise image
    try:
        if isinstance(image, Path):
            image = image.read_bytes()
        if isinstance(image, bytes) and not image:
            raise Bad("empty image", "0 bytes")
        opened = _open(image)
        if seen is not None:
            _look(opened, image, seen)
        picture = _eight_bit(ImageOps.exif_transpose(opened))
    except Bad:
        raise
    except UnidentifiedImageError:
        # Pillow's message holds an address
        kind = format_of(image[:HEAD]) if isinstance(image, bytes) else None
        if kind and kind not in FORMATS:
            raise Bad(f"{kind} image, a format that is not read", "") from None
        raise Bad("undecodable image", f"damaged {kind}" if kind else "of no known format") from None
    except Image.DecompressionBombError:
        # its words are of an attack
        raise Bad("undecodable image", _too_large(image)) from None
    except Exception as error:
        # on damaged bytes Pillow raises nearly anything: OSError, SyntaxError, struct.error, ...
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


def _too_large(image: Encoded) -> str:
    """The size of an image that Pillow refuses, and the limit."""
    # Pillow refuses from twice that on
    most = f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million are decoded"
    found = Image.OPEN.get(format_of(image[:HEAD]) or "") if isinstance(image, bytes) else None
    if found is None:
        return f"it has more pixels than are decoded; {most}"
    width, height = found[0](io.BytesIO(image), "").size  # type: ignore[arg-type]  # the plug-in alone, which does not refuse
    return f"it has {width} x {height} pixels, {width * height / 1e6:.0f} million; {most}"


def _look(picture: Image.Image, image: Encoded, seen: Seen) -> None:
    # a phone's JPEG may hold a preview, which is no frame
    if picture.format in ("GIF", "TIFF", "WEBP", "PNG"):
        seen.several_frames = bool(getattr(picture, "is_animated", False))
    if "exif" in picture.info or picture.format == "TIFF":
        seen.turned = picture.getexif().get(ORIENTATION, 1) not in (0, 1)
    if picture.mode.startswith("I"):
        seen.highest = int(np.asarray(picture).max())
    elif isinstance(image, bytes) and picture.format == "PNG" and image[PNG_DEPTH] == 16:
        # Pillow has taken the upper bytes of colours already. Opaque alpha tells nothing.
        seen.highest = int(np.asarray(picture.convert("RGB")).max()) << 8 | 0xFF


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Mode L or RGB."""
    if picture.mode in ("L", "RGB"):
        if "transparency" not in picture.info:
            return picture
    elif picture.mode.startswith("I"):
        # 16-bit greyscale; Pillow reads some as 32-bit integers
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
