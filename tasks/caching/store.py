"""Content-addressed files: written under a temporary name, synced, then renamed, and verified when they are read.

A file or a folder is stored at `<root>/<first two hex digits>/<sha256><suffix>`. A folder's sha256 is that of its
sorted listing (name and sha256 of each file), so that an ONNX file with external data is one artifact with one size.
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
    """A stored file is gone, or its content is not what its name states."""


class Store:
    """The content-addressed files below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """Make a scratch folder on the store's file system, and remove it afterwards."""
        with owned(make_folder(self.root / "tmp") / secrets.token_hex(8)) as folder, watched(self.root.parent):
            yield folder

    def put(self, path: Path, format: str, precision: str = "") -> Artifact:
        """Move a file or folder into the store. `path` must lie on the store's file system, as in `temporary`."""
        sha256, size = content(path)
        suffix = "" if path.is_dir() else path.suffix
        relative = f"{sha256[:2]}/{sha256}{suffix}"
        artifact = Artifact(path=relative, sha256=sha256, size_bytes=size, format=format, precision=precision)
        target = self.root / relative
        if self.intact(artifact):
            # The stored file stays in place, because another run may be reading it.
            remove(path)
            sync_all(target)
            sync(target.parent)
            sync(self.root)
        else:
            if path.is_file():
                # Temporary files, and those that safetensors writes, are readable by their owner alone.
                path.chmod(0o644)
            replace(path, target)
        return artifact

    def get(self, artifact: Artifact) -> Path:
        """Return the path of a stored artifact.

        Raises
        ------
        Corrupt
            If the file is gone, or its content is not what it was.
        """
        path = self.root / artifact.path
        if not path.exists():
            raise Corrupt(f"{path} is gone")
        sha256, size = content(path)
        if (sha256, size) != (artifact.sha256, artifact.size_bytes):
            raise Corrupt(f"{path} has changed: sha256 {sha256}, expected {artifact.sha256}")
        return path

    def intact(self, artifact: Artifact) -> bool:
        """Return whether `get` would succeed. A file that cannot be read is not intact."""
        try:
            self.get(artifact)
        except (Corrupt, OSError):
            return False
        return True
