"""Tell from a file's first bytes what it is, images included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import _filekinds
from models._filekinds import (
    AGAIN,
    BYTE_ORDER_MARKS,
    HEAD,
    ZIPS,
    broken_zip,
    head_of,
    irregular,
    is_safetensors,
    is_utf8,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AGAIN",
    "BYTE_ORDER_MARKS",
    "HEAD",
    "ZIPS",
    "broken_zip",
    "head_of",
    "irregular",
    "is_safetensors",
    "is_utf8",
    "kind",
]


def kind(path: Path) -> str | None:
    """Return what a file is, in words that follow "is" in a sentence, or None if its first bytes do not tell."""
    # Imported late, because it imports Pillow.
    from tasks.datasets._decode import format_of

    image_format = format_of(head_of(path))
    return f"a single image ({image_format})" if image_format else _filekinds.kind(path)
