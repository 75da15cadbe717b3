"""Makes small image files whose decoding takes far more memory or time than their size suggests, as attackers do."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 16_000
"""Height and width in pixels that the header of each bomb claims: 256 million pixels, 768 MB as RGB."""


def _small(kind: str, **options: object) -> bytearray:
    """Return an image file of 24 x 24 pixels of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return bytearray(file.getvalue())


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side: int, *chunks: bytes, grey: bool = False) -> bytes:
    """Return a valid PNG of `side` x `side` black pixels, RGBA or 1-bit grey, with `chunks` before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1 if grey else 8, 0 if grey else 6, 0, 0, 0))
    compressor = zlib.compressobj(6)
    compressed_rows = []
    for _ in range(side):
        compressed_rows.append(compressor.compress(bytes(1 + (side // 8 if grey else 4 * side))))
    pixels = chunk(b"IDAT", b"".join(compressed_rows) + compressor.flush())
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def jpeg() -> bytes:
    """Return a JPEG whose frame header claims a large size."""
    file = _small("JPEG")
    start = file.index(b"\xff\xc0")
    file[start + 5 : start + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(file)


def gif() -> bytes:
    """Return a GIF whose screen is small and whose first frame is large."""
    file = _small("GIF")
    start = file.index(b"\x2c\0\0\0\0")
    file[start + 5 : start + 9] = struct.pack("<HH", SIDE, SIDE)
    return bytes(file)


def bmp() -> bytes:
    """Return a BMP of few bytes whose header claims a large size."""
    file = _small("BMP")
    file[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(file)


def webp() -> bytes:
    """Return an extended WebP with a large canvas."""
    file = _small("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 24), "red")])
    assert file[12:16] == b"VP8X"
    file[24:30] = struct.pack("<I", SIDE - 1)[:3] * 2
    return bytes(file)


def webp_lossy() -> bytes:
    """Return a lossy WebP whose key frame claims the largest possible size: 16,383 x 16,383 pixels."""
    file = _small("WEBP", quality=50)
    assert file[12:16] == b"VP8 " and file[23:26] == b"\x9d\x01\x2a"
    file[26:30] = struct.pack("<HH", 16_383, 16_383)
    return bytes(file)


def webp_lossless() -> bytes:
    """Return a lossless WebP that claims 16,383 x 16,383 pixels."""
    file = _small("WEBP", lossless=True)
    assert file[12:16] == b"VP8L"
    file[21:25] = struct.pack("<I", struct.unpack("<I", file[21:25])[0] & 0xF0000000 | 16_382 << 14 | 16_382)
    return bytes(file)


def webp_whole(side: int) -> bytes:
    """Return a valid WebP of one colour, which takes few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "WEBP", quality=0, method=0)
    return file.getvalue()


def text(mebibytes: int = 64) -> bytes:
    """Return a small PNG with a compressed text of `mebibytes` MiB."""
    compressed_text = zlib.compress(bytes(mebibytes << 20), 9)
    return png(24, chunk(b"zTXt", b"Comment\0\0" + compressed_text))


def profile(mebibytes: int = 64) -> bytes:
    """Return a small PNG with a compressed colour profile of `mebibytes` MiB."""
    return png(24, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(mebibytes << 20), 9)))


def segments(count: int = 4_000_000) -> bytes:
    """Return a small JPEG with `count` empty application segments. Pillow keeps an object for each."""
    file = _small("JPEG")
    return bytes(file[:2] + b"\xff\xe5\0\2" * count + file[2:])


def scans(count: int = 3_000_000) -> bytes:
    """Return a progressive JPEG that repeats its last scan for `count` bytes. Each scan decodes all coefficients."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last_scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last_scan * (count // len(last_scan)) + content[-2:]


def animated(kind: str, frames: int = 300) -> bytes:
    """Return an animation, of which only the first frame is to be decoded."""
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
