"""Content-addressed files: written under a temporary name, synced, renamed; verified when read.

A file or a folder is stored at `<root>/<first two hex digits>/<sha256><suffix>`. A folder's sha256 is that of its
sorted listing (name and sha256 of each file), so an ONNX file with external data is one artifact of one size.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.durable import sync
from tasks.machine.files import content, make_folder, owned, remove, replace, sync_all
from tasks.machine.space import watched
from tasks.records import Artifact

if TYPE_CHECKING:
    from collections.abc import Iterator


class Corrupt(Exception):
    """A stored file is gone or does not have the content that its name says."""


class Store:
    """The content-addressed files below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A scratch folder on the same file system, removed afterwards."""
        with owned(make_folder(self.root / "tmp") / secrets.token_hex(8)) as folder, watched(self.root.parent):
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
            sync_all(target)
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
