"""Makes small image files that ask for far more memory or time than their size says, as attackers send them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 16_000
"""Pixels, height and width, that the head of each bomb tells: 256 million pixels, 768 MB as RGB."""


def _small(kind: str, **options: object) -> bytearray:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return bytearray(file.getvalue())


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side: int, *chunks: bytes, grey: bool = False) -> bytes:
    """A whole PNG of `side` x `side` black pixels, RGBA or one bit each, with more chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1 if grey else 8, 0 if grey else 6, 0, 0, 0))
    packer, packed = zlib.compressobj(6), []
    for _ in range(side):
        packed.append(packer.compress(bytes(1 + (side // 8 if grey else 4 * side))))
    pixels = chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def jpeg() -> bytes:
    """A JPEG whose frame header tells a large size."""
    file = _small("JPEG")
    at = file.index(b"\xff\xc0")
    file[at + 5 : at + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(file)


def gif() -> bytes:
    """A GIF whose screen is small and whose first frame is large."""
    file = _small("GIF")
    at = file.index(b"\x2c\0\0\0\0")
    file[at + 5 : at + 9] = struct.pack("<HH", SIDE, SIDE)
    return bytes(file)


def bmp() -> bytes:
    """A BMP of few bytes whose header tells a large size."""
    file = _small("BMP")
    file[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(file)


def webp() -> bytes:
    """An extended WebP with a large canvas."""
    file = _small("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 24), "red")])
    assert file[12:16] == b"VP8X"
    file[24:30] = struct.pack("<I", SIDE - 1)[:3] * 2
    return bytes(file)


def webp_lossy() -> bytes:
    """A plain WebP whose key frame tells the largest size there is: 16,383 pixels a side."""
    file = _small("WEBP", quality=50)
    assert file[12:16] == b"VP8 " and file[23:26] == b"\x9d\x01\x2a"
    file[26:30] = struct.pack("<HH", 16_383, 16_383)
    return bytes(file)


def webp_lossless() -> bytes:
    """A lossless WebP that tells 16,383 pixels a side."""
    file = _small("WEBP", lossless=True)
    assert file[12:16] == b"VP8L"
    file[21:25] = struct.pack("<I", struct.unpack("<I", file[21:25])[0] & 0xF0000000 | 16_382 << 14 | 16_382)
    return bytes(file)


def webp_whole(side: int) -> bytes:
    """A whole WebP of one colour, in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "WEBP", quality=0, method=0)
    return file.getvalue()


def text(mebibytes: int = 64) -> bytes:
    """A small PNG with a compressed text of so many mebibytes."""
    packed = zlib.compress(bytes(mebibytes << 20), 9)
    return png(24, chunk(b"zTXt", b"Comment\0\0" + packed))


def profile(mebibytes: int = 64) -> bytes:
    """A small PNG with a colour profile of so many mebibytes."""
    return png(24, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(mebibytes << 20), 9)))


def segments(count: int = 4_000_000) -> bytes:
    """A small JPEG with millions of empty application segments, each of which Pillow keeps an object for."""
    file = _small("JPEG")
    return bytes(file[:2] + b"\xff\xe5\0\2" * count + file[2:])


def scans(count: int = 3_000_000) -> bytes:
    """A progressive JPEG that repeats its last scan again and again: each time all coefficients are gone through."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (count // len(last)) + whole[-2:]


def animated(kind: str, frames: int = 300) -> bytes:
    """An animation, of which the first frame is what counts."""
    file = io.BytesIO()
    first, *others = (Image.new("RGB", (64, 64), (i % 256, i // 256, 0)) for i in range(frames))
    first.save(file, kind, save_all=True, append_images=others, duration=1)
    return file.getvalue()


PIXELS = {
    "png": lambda: png(SIDE, grey=True),
    "jpeg": jpeg,
    "gif": gif,
    "bmp": bmp,
    "webp": webp,
    "webp_lossy": webp_lossy,
    "webp_lossless": webp_lossless,
}
METADATA = {"text": text, "profile": profile, "segments": segments, "scans": scans}
