"""Content-addressed files: written under a temporary name, synced, renamed; verified when read.

A file or a folder is stored at `<root>/<first two hex digits>/<sha256><suffix>`. A folder's sha256 is that of its sorted
listing (name and sha256 of each file), so an ONNX file with external data is one artifact of one size.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.records import Artifact
from tasks.space import watched

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Put a finished file or folder where it belongs: synced, then renamed, so that it appears whole or not at all."""
    for file in _listing(source) if source.is_dir() else [source]:
        _sync(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
    _sync(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).chmod(0o644)
    replace(Path(name), target)


class Store:
    """The content-addressed files below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A scratch folder on the same file system, removed afterwards."""
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
        try:
            with watched(self.root.parent):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, path: Path, format: str, precision: str = "") -> Artifact:
        """Move a file or folder into the store. `path` must lie on the store's file system (see `temporary`)."""
        sha256, size = content(path)
        suffix = "" if path.is_dir() else path.suffix
        relative = f"{sha256[:2]}/{sha256}{suffix}"
        replace(path, self.root / relative)
        return Artifact(path=relative, sha256=sha256, size_bytes=size, format=format, precision=precision)

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
        """Whether `get` would succeed."""
        try:
            self.get(artifact)
        except Corrupt:
            return False
        return True
