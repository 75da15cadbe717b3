"""Files and folders that appear whole or not at all: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.durable import sync
from tasks.machine.locks import held

if TYPE_CHECKING:
    from collections.abc import Iterator


LOCK = ".lock"
"""Suffix of the lock beside a folder that belongs to a live process."""
UNFINISHED = ".tmp-"
"""Beginning of the name of a file that is being written."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted by their paths."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def content(path: Path) -> tuple[str, int]:
    """Return the SHA-256 (hexadecimal) and the size (bytes) of a file or of a folder with all its files."""
    if not path.is_dir():
        return file_sha256(path), path.stat().st_size
    total = 0
    lines = hashlib.sha256()
    for file in _listing(path):
        total += file.stat().st_size
        lines.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return lines.hexdigest(), total


def sync_all(path: Path) -> None:
    """Sync a file, or a folder with everything in it. Syncing the folder itself makes the names in it durable."""
    if path.is_dir():
        for inner in path.iterdir():
            sync_all(inner)
    sync(path)


def lock_of(folder: Path) -> Path:
    """Return the file beside a folder that a process locks while it works in the folder (tasks/machine/locks.py)."""
    return folder.with_name(f"{folder.name}{LOCK}")


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, so that they survive a loss of power, and return it.

    Every folder that gets a new name in it is synced.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)
    return folder


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Sync a finished file or folder, then rename it to `target`, so that it appears whole or not at all."""
    sync_all(source)
    make_folder(target.parent)
    # A folder with content cannot be replaced by another in one step.
    if target.is_dir():
        aside = source.with_name(f"{source.name}.old")
        target.replace(aside)
        source.replace(target)
        remove(aside)
    else:
        source.replace(target)
    sync(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    written = make_folder(target.parent) / f"{UNFINISHED}{secrets.token_hex(8)}"
    with held(written) as handle, open(handle, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
        file.flush()
        replace(written, target)


@contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """Make a folder that belongs to this process while the block runs, and remove it afterwards.

    The folder of a process that died is recognised by its lock, which nobody holds.
    """
    with held(lock_of(folder)):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Make a scratch folder beside `target`, on the same file system, and remove it afterwards."""
    with owned(make_folder(target.parent) / f"{UNFINISHED}{secrets.token_hex(8)}") as folder:
        yield folder


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder to `target`, whole or not at all."""
    with beside(target) as scratch:
        copied = scratch / target.name
        if source.is_dir():
            shutil.copytree(source, copied)
        else:
            shutil.copyfile(source, copied)
        replace(copied, target)
