"""ONNX Runtime on its CPU or CUDA execution provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.runtimes import _cuda, _onnxruntime
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx",)
OPTIONS = _onnxruntime.OPTIONS
unavailable = _onnxruntime.unavailable
load_library = _onnxruntime.load_library


def settings(threads: int, options: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings of a session on the CPU, other than its number of threads."""
    return _onnxruntime.with_options(options)


def open(
    path: Path, device: str, batch_size: int, threads: int, slots: int = 1, options: Iterable[str] = ()
) -> Session:
    """Open an .onnx file, or a folder that holds one and its external data. Options are for the CPU alone."""
    load_library(device)
    file = model_file(path)
    if device == "cpu":
        return _onnxruntime.Session(file, threads, slots, options)
    return _cuda.Session(
        device,
        lambda stream: _onnxruntime.Model(file, device, stream, "CUDAExecutionProvider", {"use_tf32": "0"}, {}),
    )
