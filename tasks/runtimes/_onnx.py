"""ONNX artifacts: an .onnx file, or a folder that holds one and its external data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def model_file(path: Path) -> Path:
    """Return the .onnx file of an artifact: `path` itself, or the one file in the folder `path`.

    Raises
    ------
    ValueError
        If the folder does not hold exactly one .onnx file.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.onnx"))
    if len(files) != 1:
        raise ValueError(f"{path} must hold one .onnx file, it has {len(files)}")
    return files[0]
