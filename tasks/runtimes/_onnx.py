"""ONNX artifacts: a file, or a folder with one and its external data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def model_file(path: Path) -> Path:
    """The .onnx file itself, where `path` is a folder that holds it beside its external data.

    Raises
    ------
    ValueError
        If the folder does not hold exactly one .onnx file.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.onnx"))
    if len(found) != 1:
        raise ValueError(f"{path} must hold one .onnx file, it has {len(found)}")
    return found[0]
