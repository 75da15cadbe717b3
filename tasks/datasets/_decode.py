"""Decode images, as sources give them, to uint8 pixels of one size."""

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

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Only these formats are decoded. Pillow knows more, e.g. EPS, and hands that to Ghostscript: no data set may do so."""

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
"""Formats of images: an offset in bytes, the bytes that stand there, and the name of the format."""

_BMP_HEADERS = (b"\x0c\0\0\0", b"(\0\0\0", b"4\0\0\0", b"8\0\0\0", b"@\0\0\0", b"l\0\0\0", b"|\0\0\0")
"""The sizes of the headers that follow a BMP file's first 14 bytes. "BM" alone may begin any text."""

# Pillow warns of images that it decodes all the same. Those that it refuses are reported as bad.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
ORIENTATION = 0x0112
"""EXIF's tag for the orientation of an image."""
PNG_DEPTH = 24
"""Offset in bytes of the number of bits per channel in a PNG file."""
HEAD = 512
"""The format of a file is told from at most this many bytes at its beginning."""
BATCH = 32
"""A thread is given at most this many images at a time."""
BATCH_BYTES = 64 << 20
"""The decoded pixels of the images that a thread is given take at most this many bytes, unless one image takes more."""


def format_of(head: bytes) -> str | None:
    """Return the format of an image file, or None if it is no image.

    The format need not be one of `FORMATS`. The first 132 bytes of a file are enough to tell all of them.
    """
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return "camera raw" if name == "TIFF" and head[8:10] == b"CR" else name
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    return "SVG" if head.startswith(b"<?xml") and b"<svg" in head else None


class Bad(Exception):
    """An image that cannot be used. Its arguments are the reason and a detail, which may be empty."""


Encoded = bytes | Path | np.ndarray | Image.Image | Bad | None
"""An image as a source gives it.

It is an image file's bytes or its path, uint8 pixels of shape (height, width) or (height, width, channels), a picture
of Pillow's, None for a null image, or the reason why the source could not read it.
"""


class EncodedImage(NamedTuple):
    """An image to decode, and the row that it is from."""

    image: Encoded
    part: str
    row: int
    name: str
    """The name that the source gives to the image, or an empty text."""


@dataclass
class Traits:
    """Properties of an image file that its decoded pixels do not show."""

    several_frames: bool = False
    """Whether the file has several frames, of which the first was taken."""
    turned: bool = False
    """Whether the image was turned upright, as its EXIF orientation says."""
    highest: int | None = None
    """The highest value of pixels with 16 bits per channel, of which the upper 8 were kept. None for other pixels."""


class DecodedImage(NamedTuple):
    """A decoded image, or the reason why it cannot be decoded, and the row that it is from."""

    part: str
    row: int
    name: str
    """The name that the source gives to the image, or an empty text."""
    pixels: np.ndarray | Bad
    digest: bytes
    """Hash of the pixels as RGB, so that a greyscale image has the digest of its RGB copy."""
    traits: Traits


def decode_all(images: Iterator[EncodedImage], size: int | None, resize: int | None = None) -> Iterator[DecodedImage]:
    """Decode images in threads, in order and with few of them in memory. See `decode` for `size` and `resize`.

    Threads run at the same time, because Pillow's decoders release the interpreter's lock.
    """
    # Imported late, because `burnish deploy` copies this file beside the server, which runs without burnish.
    from tasks.machine import quota

    workers = quota.usable_processors()
    batch_size = max(1, min(BATCH, BATCH_BYTES // (3 * (size or 1) ** 2)))
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[DecodedImage]]] = deque()
        while batch := list(islice(images, batch_size)):
            pending.append(pool.submit(_decode_batch, batch, size, resize))
            if len(pending) > workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _decode_batch(batch: list[EncodedImage], size: int | None, resize: int | None) -> list[DecodedImage]:
    """Decode the images that one thread was given."""
    return [_decode_one(encoded, size, resize) for encoded in batch]


def _decode_one(encoded: EncodedImage, size: int | None, resize: int | None) -> DecodedImage:
    """Decode an image, and hash its pixels."""
    traits = Traits()
    try:
        pixels = decode(encoded.image, size, resize, traits)
    except Bad as bad:
        return DecodedImage(encoded.part, encoded.row, encoded.name, bad, b"", traits)
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    digest = blake2b(rgb.tobytes(), digest_size=16).digest()
    return DecodedImage(encoded.part, encoded.row, encoded.name, pixels, digest, traits)


def decode(image: Encoded, size: int | None, resize: int | None = None, traits: Traits | None = None) -> np.ndarray:
    """Decode an image to upright uint8 pixels, (height, width) if it is greyscale, else (height, width, 3).

    Images are turned as their EXIF orientation says. Transparent pixels are laid on white. Of 16 bits per channel the
    upper 8 are kept. Of several frames the first is taken.

    Parameters
    ----------
    image
        The image as a source gives it.
    size
        Height and width in pixels of the square that is cropped from the centre. None keeps the image as it is.
    resize
        Before that, the shorter side is resized to this many pixels (bicubic, antialiased). None means `size`.
    traits
        Is filled with the properties of the file that the pixels do not show.

    Raises
    ------
    Bad
        If the image is null, empty, no image, cut off, of absurd size, or of pixels whose range is unknown.
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
        if traits is not None:
            _note_traits(opened, image, traits)
        picture = _eight_bit(ImageOps.exif_transpose(opened))
    except Bad:
        raise
    except UnidentifiedImageError:
        # Pillow's own message holds the address of an object in memory.
        raise _unidentified(image) from None
    except Image.DecompressionBombError:
        # Pillow's own message speaks of an attack.
        raise Bad("undecodable image", _too_large(image)) from None
    except Exception as error:
        # On damaged bytes Pillow raises nearly any kind of exception: OSError, SyntaxError, struct.error, ...
        raise Bad("undecodable image", " ".join(str(error).split()) or type(error).__name__) from error
    return np.asarray(picture if size is None else _fit(picture, size, resize or size))


def _open(image: bytes | np.ndarray | Image.Image) -> Image.Image:
    """Return an image as a picture of Pillow's, with its pixels loaded."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, bytes):
        picture = Image.open(io.BytesIO(image), formats=FORMATS)
        picture.load()
        return picture
    return image


def _unidentified(image: Encoded) -> Bad:
    """Return why Pillow does not recognise an image: its format is not read, it is damaged, or it is no image."""
    image_format = format_of(image[:HEAD]) if isinstance(image, bytes) else None
    if image_format is None:
        return Bad("undecodable image", "of no known format")
    if image_format not in FORMATS:
        return Bad(f"{image_format} image, a format that is not read", "")
    return Bad("undecodable image", f"damaged {image_format}")


def _too_large(image: Encoded) -> str:
    """Return a sentence with the size of an image that Pillow refuses, and the limit."""
    # Pillow warns from MAX_IMAGE_PIXELS on, and refuses from twice that on.
    limit = f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million are decoded"
    plugin = Image.OPEN.get(format_of(image[:HEAD]) or "") if isinstance(image, bytes) else None
    if plugin is None:
        return f"it has more pixels than are decoded; {limit}"
    # The plug-in by itself reads the size and does not refuse.
    width, height = plugin[0](io.BytesIO(image), "").size  # type: ignore[arg-type]
    return f"it has {width} x {height} pixels, {width * height / 1e6:.0f} million; {limit}"


def _note_traits(picture: Image.Image, image: Encoded, traits: Traits) -> None:
    """Fill `traits` with the properties of an opened image file."""
    # Other formats are left out: the second picture in a phone's JPEG is a preview and no frame.
    if picture.format in ("GIF", "TIFF", "WEBP", "PNG"):
        traits.several_frames = bool(getattr(picture, "is_animated", False))
    if "exif" in picture.info or picture.format == "TIFF":
        traits.turned = picture.getexif().get(ORIENTATION, 1) not in (0, 1)
    if picture.mode.startswith("I"):
        traits.highest = int(np.asarray(picture).max())
    elif isinstance(image, bytes) and picture.format == "PNG" and image[PNG_DEPTH] == 16:
        # Pillow has already kept the upper bytes of colours alone. Alpha is left out, as it is high where it is opaque.
        traits.highest = int(np.asarray(picture.convert("RGB")).max()) << 8 | 0xFF


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Return a picture with 8 bits per channel, greyscale (mode L) or in colour (mode RGB), laid on white."""
    if picture.mode in ("L", "RGB"):
        if "transparency" not in picture.info:
            return picture
    elif picture.mode.startswith("I"):
        # This is greyscale of 16 bits, some of which Pillow reads as 32-bit integers.
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit integer pixels have no known range")
        return Image.fromarray((values >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    elif picture.mode == "1":
        return picture.convert("L")
    if picture.has_transparency_data:
        is_grey = picture.mode in ("L", "LA", "La")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("L" if is_grey else "RGB")
    return picture.convert("RGB")


def _fit(picture: Image.Image, size: int, resize: int) -> Image.Image:
    """Resize a picture's shorter side to `resize` pixels, and crop a square of `size` pixels from the centre.

    The arithmetic is that of torchvision's Resize and CenterCrop.
    """
    width, height = picture.size
    short = min(width, height)
    if short != resize:
        width, height = (resize if side == short else max(resize, resize * side // short) for side in (width, height))
        if width * height > (Image.MAX_IMAGE_PIXELS or 0):
            raise Bad("undecodable image", f"{picture.width}x{picture.height} pixels are too elongated to resize")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
