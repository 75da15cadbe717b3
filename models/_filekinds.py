"""Tell from a file's first bytes what it is. People hand over files that are cut off, compressed or of another kind."""

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
"""Tests of a file's mode, each with the words for such a file.

Such files are not read: reading a pipe may wait for ever, and /dev/zero never ends.
"""
HEAD = 512
"""This many bytes at the beginning of a file are read to tell what it is."""
AGAIN = "copy or download it again"
SAFETENSORS = "a safetensors file"
ZIP = "a zip file"
ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""First bytes of zip files: one with members, an empty one, and one in several parts."""
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
"""Kinds of files: an offset in bytes, the bytes that stand there, and the words for such a file.

The words say what to do with the file, too, where that helps.
"""
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of texts in UTF-16."""


def irregular(path: Path) -> str | None:
    """Return the words for what a path leads to if that is no regular file and no folder, else None.

    It also returns None if nothing is there: whoever opens the path then reports that.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return next((words for is_kind, words in IRREGULAR if is_kind(mode)), None)


def head_of(path: Path) -> bytes:
    """Return the first `HEAD` bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def kind(path: Path) -> str | None:
    """Return what a file is, in words that follow "is" in a sentence, or None if its first bytes do not tell."""
    head = head_of(path)
    if not any(head):
        return f"nothing but zero bytes at its beginning: {AGAIN}" if head else "empty (0 bytes)"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return PAGE
    for offset, magic, words in MAGIC:
        if head.startswith(magic, offset):
            return words
    if head.startswith(ZIPS):
        return broken_zip(path) or ZIP
    return SAFETENSORS if is_safetensors(head) else _text(head)


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as safetensors: with the length of its header in eight bytes, then JSON.

    No header is 4 GiB long, so that the upper four bytes of the length are zero.
    """
    return head[4:9] == b"\0\0\0\0{"


def broken_zip(path: Path) -> str | None:
    """Return what is wrong with a zip file, or None if its list of members, which stands at its end, can be read."""
    try:
        with zipfile.ZipFile(path):
            return None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # Without a list of members, Python says "not a zip file", which misleads about a file that is cut off.
        reason = "its end is missing" if "not a zip file" in str(error) else str(error)
        return f"a zip file that is cut off or damaged ({reason}): {AGAIN}"


def _text(head: bytes) -> str | None:
    """Return the words for a text file, or None if the first bytes are not those of one."""
    if head.startswith(BYTE_ORDER_MARKS):
        return "a text in UTF-16"
    if any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return None
    return "a text" if is_utf8(head) else None


def is_utf8(head: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8. Their end may cut through a character of up to four bytes."""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return True
