"""Room on the disks that a run writes to: how much there is, and the sentence that reports that there is too little."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

LITTLE = 64 * 1024
"""Where fewer bytes than this are free, a failure without a stated cause is attributed to the full disk, because a
write that did not fit has filled the disk to its last block, or nearly."""
PASSING = (".tmp-", ".bench-", ".deploy-")
"""Beginnings of the names of folders that burnish makes for a moment."""
STORED = ("store", "tmp")
"""The folders in an artifacts folder that hold files for a moment."""


@dataclass(frozen=True)
class Place:
    """A folder that may have become full."""

    folder: Path
    elsewhere: str
    """How a person chooses another folder, in words."""

    @property
    def existing(self) -> Path:
        """The folder, or the nearest folder above it that exists."""
        return next((path for path in (self.folder, *self.folder.parents) if path.exists()), Path("/"))

    @property
    def free(self) -> int:
        """Bytes that this user may still write there."""
        return shutil.disk_usage(self.existing).free

    @property
    def files(self) -> int | None:
        """Number of files that can still be made. None means that the file system sets no limit."""
        usage = os.statvfs(self.existing)
        return usage.f_favail if usage.f_files else None

    @property
    def full(self) -> bool:
        """Whether the disk has next to no room, or no room for the name of another file."""
        return shutil.disk_usage(self.existing).total > 0 and (self.free < LITTLE or self.files == 0)

    def on_disk_of(self, path: str) -> bool:
        """Return whether a file lies, or would lie, on the same disk as this folder."""
        return Place(Path(path).absolute(), "").existing.stat().st_dev == self.existing.stat().st_dev

    def sentence(self, missing: str = "") -> str:
        """Return the sentence that reports the full disk. `missing` says how much more room is needed.

        It names the folder that a person knows, not one below it that exists for a moment.
        """
        parts = self.folder.parts
        passing = (
            number for number, part in enumerate(parts) if part.startswith(PASSING) or parts[number:][:2] == STORED
        )
        folder = Path(*parts[: next(passing, len(parts))])
        total = shutil.disk_usage(self.existing).total
        limit = "no more file can be made, although" if self.files == 0 and self.free >= LITTLE else "only"
        return (
            f"the disk of {folder} is full: {limit} {size(self.free)} of {size(total)} are free{missing}; make room "
            f"there or choose {self.elsewhere}, and the same command goes on"
        )


def size(count: int) -> str:
    """Return a number of bytes as a person reads it, e.g. 12.3 MB."""
    if count < 1000:
        return f"{count} bytes"
    rounded = float(f"{count:.3g}")
    power = min(int(math.log10(rounded)) // 3, 4)
    return f"{rounded / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def temporary_place() -> Place:
    """Return the folder of temporary files."""
    elsewhere = "another folder for temporary files with the variable TMPDIR"
    return Place(Path(os.environ.get("TMPDIR") or "/tmp"), elsewhere)


def database_place() -> Place:
    """Return the folder of Prefect's database."""
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    elsewhere = "another folder for Prefect's database with the variable PREFECT_HOME"
    return Place(Path(home).expanduser().absolute(), elsewhere)


def places_of_run(folders: tuple[str | Path, ...], option: str) -> list[Place]:
    """Return the given folders, which the command's `option` chooses, and those that every run writes to."""
    memory = Path("/dev/shm")
    return [
        *(Place(Path(folder).absolute(), f"another folder with {option}") for folder in folders),
        temporary_place(),
        database_place(),
        *([Place(memory, "a larger one (docker run --shm-size), or train.workers=0")] if memory.is_dir() else []),
    ]


def shortage(place: Place, count: int | None, need: str = "the file takes") -> str:
    """Return the part of the sentence that says how many bytes are needed, and how many of them are missing.

    It is empty where that is not known.
    """
    if count is None or count <= place.free:
        return ""
    return f" and {need} {size(count)}, so {size(count - place.free)} are missing"
