"""Folders that keep what a comparison has made, so that the next comparison does not make it again."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder of the repository."""
BURNISH = ("flows", "tasks", "models", "requirements.txt")
"""What burnish's results depend on."""


def folder_of(place: Path, *causes: str) -> Path:
    """Return the folder below `place` for what these causes bring about. Folders of other causes are removed."""
    name = hashlib.sha256("\0".join(causes).encode()).hexdigest()[:16]
    folder = place / name
    folder.mkdir(parents=True, exist_ok=True)
    for other in place.iterdir():
        if other.name != name:
            shutil.rmtree(other)
    return folder


def code(*places: str) -> str:
    """Return the hash of files, and of the Python files in folders, given by their place in the repository."""
    digest = hashlib.sha256()
    for place in places:
        paths = sorted((ROOT / place).rglob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
        for path in paths:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
