"""Files from which later runs continue: synced before they appear, and named by their content so that damage shows.

Number 7 of the series `training-0` is the file `training-0.7.<first half of its SHA-256>.pt`. It appears whole or not
at all, even when the power fails. What a disk, a copy or a person did to it later shows when it is compared with its
name.
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
"""A name holds this many hexadecimal digits of the SHA-256, which are 128 bits."""


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
    """A file for a writer that cannot handle an error: PyTorch's ends the whole process where a write fails.

    The first error is remembered, and `check` raises it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.count = 0
        """Bytes that the writer handed over, written or not."""

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
        """Raise the error of an earlier write, if there was one; else wait until everything is on the disk."""
        self.flush()
        if self.error is not None:
            raise with_length(self.error, self.count)
        os.fsync(self.file.fileno())


@dataclass(frozen=True)
class SeriesFile:
    """One file of a series."""

    number: int
    path: Path

    def intact(self) -> bool:
        """Return whether the file has the content that its name states. The whole file is read."""
        return self.path.name.split(".")[-2] == _digest(self.path)


@dataclass(frozen=True)
class Series:
    """Numbered files of one kind in one folder."""

    folder: Path
    stem: str
    suffix: str
    """Ending of the files' names, with its point, e.g. ".pt"."""

    def files(self) -> list[SeriesFile]:
        """Return the files of this series, the one with the highest number last."""
        if not self.folder.is_dir():
            return []
        name = re.compile(rf"{re.escape(self.stem)}\.(\d+)\.[0-9a-f]{{{DIGITS}}}{re.escape(self.suffix)}")
        matches = ((name.fullmatch(path.name), path) for path in self.folder.iterdir())
        files = [SeriesFile(int(match[1]), path) for match, path in matches if match]
        return sorted(files, key=lambda file: (file.number, file.path.name))

    def write(self, number: int, fill: Callable[[IO[bytes]], object]) -> Path:
        """Write the file with this number and remove other files with the same or a higher number.

        `fill` writes the content into the open file that it is given, from start to end.
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
