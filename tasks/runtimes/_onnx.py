"""Artifacts that are files or folders: ONNX with or without external data, and OpenVINO's .xml file with its .bin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def model_file(path: Path) -> Path:
    """Return the model file of an artifact: `path` itself, or the one .onnx or .xml file in the folder `path`.

    Raises
    ------
    ValueError
        If the folder does not hold exactly one such file.
    """
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in (".onnx", ".xml"))
    if len(files) != 1:
        raise ValueError(f"{path} must hold one .onnx or .xml file, it has {len(files)}")
    return files[0]
