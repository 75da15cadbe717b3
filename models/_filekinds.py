"""What a file is by its first bytes: people hand over what was cut off on the way, compressed, or is of another
program."""

from __future__ import annotations

import stat
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

IRREGULAR = (
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""(Test of a file's mode, what such a file is). A pipe is waited for for ever, and /dev/zero never ends."""
HEAD = 512
"""Bytes at the beginning of a file that tell what it is."""
AGAIN = "copy or download it again"
SAFETENSORS, ZIP = "a safetensors file", "a zip file"
ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""First bytes of zip files: with members, without one, in several parts."""
PAGE = "a web page: the download was not of the file itself"
MAGIC = (
    (0, b"version https://git-lfs", "a Git LFS pointer: git lfs pull fetches the file itself"),
    (0, b"PAR1", "Parquet"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"\x89HDF", "HDF5, as Keras writes it"),
    (0, b"\x93NUMPY", "an array of NumPy"),
    (0, b"\x1f\x8b", "compressed by gzip, as tar archives often are: unpack it"),
    (0, b"BZh", "compressed by bzip2: unpack it"),
    (0, b"\xfd7zXZ\0", "compressed by xz: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (0, b"Rar!\x1a\x07", "a RAR archive: unpack it"),
    (257, b"ustar", "a tar archive: unpack it"),
    (4, b"TFL3", "TensorFlow Lite"),
    (0, b"GGUF", "GGUF, as llama.cpp reads it"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"vtrt", "an engine of TensorRT for RTX"),
    (0, b"\x7fELF", "a program or library (ELF)"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
)
"""(Offset, bytes there, what such a file is and, where that is plain, what to do)."""
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of texts in UTF-16."""


def irregular(path: Path) -> str | None:
    """What there is in place of a regular file or a folder; None: one of these, or nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        # said by whoever opens it
        return None
    return next((what for is_kind, what in IRREGULAR if is_kind(mode)), None)


def head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def kind(path: Path) -> str | None:
    """What a file is, to follow "is" in a sentence; None where its first bytes tell nothing."""
    head = head_of(path)
    if not any(head):
        return f"nothing but zero bytes at its beginning: {AGAIN}" if head else "empty (0 bytes)"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return PAGE
    if found := next((what for offset, magic, what in MAGIC if head.startswith(magic, offset)), None):
        return found
    if head.startswith(ZIPS):
        return broken_zip(path) or ZIP
    return SAFETENSORS if is_safetensors(head) else _text(head)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header, in eight bytes of which four are enough, and a header in
    JSON."""
    return head[4:9] == b"\0\0\0\0{"


def broken_zip(path: Path) -> str | None:
    """What is wrong with a file that begins as a zip file; None: its list of members, which ends a zip, can be read."""
    try:
        with zipfile.ZipFile(path):
            return None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # Python's words for a list that is not there are that the file is none: of one cut off, that is misleading.
        why = "its end is missing" if "not a zip file" in str(error) else str(error)
        return f"a zip file that is cut off or damaged ({why}): {AGAIN}"


def _text(head: bytes) -> str | None:
    if head.startswith(BYTE_ORDER_MARKS):
        return "a text in UTF-16"
    if any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # else the last byte read cuts a character
        if error.start < len(head) - 4:
            return None
    return "a text"
