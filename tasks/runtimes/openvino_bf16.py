"""OpenVINO on a CPU with bf16 instructions: fp32 files in bf16, which is OpenVINO's own default there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks import machine
from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
load_library = _openvino.load_library


def unavailable(device: str) -> str | None:
    """Why OpenVINO cannot run in bf16 on `device`, or None."""
    reason = _openvino.unavailable(device)
    if reason is None and not INSTRUCTIONS & set(machine.cpu()[1]):
        return "this CPU has no bf16 instructions"
    return reason


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an ONNX file, a folder with one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, "bf16", threads, slots)
