"""Content-addressed files: written under a temporary name, synced, renamed; verified when read.

A file or a folder is stored at `<root>/<first two hex digits>/<sha256><suffix>`. A folder's sha256 is that of its
sorted listing (name and sha256 of each file), so an ONNX file with external data is one artifact of one size.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.durable import sync
from tasks.locks import held
from tasks.records import Artifact
from tasks.space import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = ".lock"
"""Suffix of the lock beside a folder that belongs to a live process."""
UNFINISHED = ".tmp-"
"""What the name of a file begins with that is being written."""


class Corrupt(Exception):
    """A stored file is gone or does not have the content that its name says."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def content(path: Path) -> tuple[str, int]:
    """(SHA-256 in hex, bytes in all) of a file or a folder."""
    if not path.is_dir():
        return file_sha256(path), path.stat().st_size
    total, lines = 0, hashlib.sha256()
    for file in _listing(path):
        total += file.stat().st_size
        lines.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return lines.hexdigest(), total


def _sync_all(path: Path) -> None:
    """Sync a file, or a folder with everything in it; a folder's own sync makes the names in it last."""
    if path.is_dir():
        for inner in path.iterdir():
            _sync_all(inner)
    sync(path)


def lock_of(folder: Path) -> Path:
    """The file that whoever works in a folder has locked (tasks/locks.py). It stands beside the folder."""
    return folder.with_name(f"{folder.name}{LOCK}")


def made(folder: Path) -> Path:
    """Make a folder whose name outlives a loss of power: whatever a new name stands in is synced."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)
    return folder


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Put a finished file or folder where it belongs: synced, then renamed, so that it appears whole or not at all."""
    _sync_all(source)
    made(target.parent)
    # a name of a folder with content is not given to another in one step
    if target.is_dir():
        aside = source.with_name(f"{source.name}.old")
        target.replace(aside)
        source.replace(target)
        remove(aside)
    else:
        source.replace(target)
    sync(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    written = made(target.parent) / f"{UNFINISHED}{secrets.token_hex(8)}"
    with held(written) as handle, open(handle, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
        file.flush()
        replace(written, target)


@contextmanager
def _owned(folder: Path) -> Iterator[Path]:
    """A new folder that belongs to this process until it is removed; that of a dead process is found by its lock."""
    with held(lock_of(folder)):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A scratch folder on the file system of `target`, removed afterwards."""
    with _owned(made(target.parent) / f"{UNFINISHED}{secrets.token_hex(8)}") as folder:
        yield folder


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, whole or not at all."""
    with beside(target) as scratch:
        copied = scratch / target.name
        if source.is_dir():
            shutil.copytree(source, copied)
        else:
            shutil.copyfile(source, copied)
        replace(copied, target)


class Store:
    """The content-addressed files below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A scratch folder on the same file system, removed afterwards."""
        with _owned(made(self.root / "tmp") / secrets.token_hex(8)) as folder, watched(self.root.parent):
            yield folder

    def put(self, path: Path, format: str, precision: str = "") -> Artifact:
        """Move a file or folder into the store. `path` must lie on the store's file system (see `temporary`)."""
        sha256, size = content(path)
        suffix = "" if path.is_dir() else path.suffix
        relative = f"{sha256[:2]}/{sha256}{suffix}"
        artifact = Artifact(path=relative, sha256=sha256, size_bytes=size, format=format, precision=precision)
        target = self.root / relative
        # another run may be reading it
        if self.intact(artifact):
            remove(path)
            _sync_all(target)
            sync(target.parent)
            sync(self.root)
        else:
            if path.is_file():
                # safetensors and temporary files are made for their owner alone
                path.chmod(0o644)
            replace(path, target)
        return artifact

    def get(self, artifact: Artifact) -> Path:
        """Path of a stored artifact.

        Raises
        ------
        Corrupt
            If it is gone or its content is not what it was.
        """
        path = self.root / artifact.path
        if not path.exists():
            raise Corrupt(f"{path} is gone")
        sha256, size = content(path)
        if (sha256, size) != (artifact.sha256, artifact.size_bytes):
            raise Corrupt(f"{path} has changed: sha256 {sha256}, expected {artifact.sha256}")
        return path

    def intact(self, artifact: Artifact) -> bool:
        """Whether `get` would succeed; a file that cannot be read is not intact."""
        try:
            self.get(artifact)
        except (Corrupt, OSError):
            return False
        return True
