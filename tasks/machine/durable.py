"""Files that later runs go on from: synced before they appear, and named by their content, so that damage is noticed.

`training-0` number 7 is the file `training-0.7.<first half of its SHA-256>.pt`. It appears whole or not at all, also
when the power fails; what a disk, a copy or a person has done to it since shows when it is compared with its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from tasks.machine.space import watched, with_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

DIGITS = 32
"""Hexadecimal digits of the SHA-256 that a name holds: 128 bits."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


class _Patient:
    """A file for writers that cannot take an error: PyTorch's ends the whole process where a write fails. It is kept,
    and raised by `check`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.count = 0
        """Bytes that were to be written."""

    def write(self, data: ReadableBuffer) -> int:
        self.count += memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error

    def check(self) -> None:
        """Raise what went wrong; else wait until everything is on the disk."""
        self.flush()
        if self.error is not None:
            raise with_length(self.error, self.count)
        os.fsync(self.file.fileno())


@dataclass(frozen=True)
class SeriesFile:
    """A file that was kept under a number."""

    number: int
    path: Path

    def intact(self) -> bool:
        """Whether it has the content that its name says. It is read as a whole."""
        return self.path.name.split(".")[-2] == _digest(self.path)


@dataclass(frozen=True)
class Series:
    """Numbered files of one kind in one folder."""

    folder: Path
    stem: str
    suffix: str
    """With its point, e.g. ".pt"."""

    def files(self) -> list[SeriesFile]:
        """The files that are there, the highest number last."""
        name = re.compile(rf"{re.escape(self.stem)}\.(\d+)\.[0-9a-f]{{{DIGITS}}}{re.escape(self.suffix)}")
        found = [(name.fullmatch(path.name), path) for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(
            (SeriesFile(int(m[1]), path) for m, path in found if m), key=lambda one: (one.number, one.path.name)
        )

    def write(self, number: int, fill: Callable[[IO[bytes]], object]) -> Path:
        """Write a file with what `fill` writes, which it does from start to end; it replaces those of the same and of
        higher numbers.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".writing")
        written = Path(name)
        try:
            with watched(self.folder), os.fdopen(handle, "wb") as file:
                patient = _Patient(file)
                fill(cast("IO[bytes]", patient))
                patient.check()
            target = self.folder / f"{self.stem}.{number}.{_digest(written)}{self.suffix}"
            written.replace(target)
        except BaseException:
            with suppress(FileNotFoundError):
                written.unlink()
            raise
        for old in self.files():
            if old.number >= number and old.path != target:
                old.path.unlink()
        sync(self.folder)
        return target
