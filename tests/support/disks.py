"""Mounts small disks and fills them, so that code under test runs out of space."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tasks.machine import room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small file system in memory, of a size such as "1m". A second call changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        remount = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", str(folder)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            pytest.skip(f"only root can mount a file system: {completed.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, free_bytes: int) -> None:
    """Fill the disk of a folder until only `free_bytes`, in whole pages, are free."""
    free = room.Place(folder, "").free
    with (folder / "filling").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - free_bytes)
