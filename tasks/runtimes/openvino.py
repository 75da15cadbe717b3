"""OpenVINO on the CPU in fp32 (int8 where the file says so): latency hint for one query in flight, else throughput hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
unavailable, load_library = _openvino.unavailable, _openvino.load_library


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an ONNX file, a folder with one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, "f32", threads, slots)
