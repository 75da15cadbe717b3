"""OpenVINO on the CPU in fp32 (int8 where the file says so): latency hint for one query in flight, else throughput
hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
PRECISION = "f32"
unavailable, load_library = _openvino.unavailable, _openvino.load_library


def settings(threads: int) -> dict[str, Any]:
    """OpenVINO's properties for one query in flight."""
    return _openvino.configuration(PRECISION, threads, 1)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an ONNX file, a folder with one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, PRECISION, threads, slots)
