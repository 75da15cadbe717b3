"""What a file is by its first bytes, images included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import _filekinds
from models._filekinds import AGAIN, BYTE_ORDER_MARKS, HEAD, ZIPS, broken_zip, head_of, irregular, is_safetensors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AGAIN", "BYTE_ORDER_MARKS", "HEAD", "ZIPS", "broken_zip", "head_of", "irregular", "is_safetensors", "kind"]


def kind(path: Path) -> str | None:
    """What a file is, to follow "is" in a sentence; None where its first bytes tell nothing."""
    # late: Pillow
    from tasks.datasets._decode import format_of

    image = format_of(head_of(path))
    return f"a single image ({image})" if image else _filekinds.kind(path)
