"""OpenVINO on the CPU in fp32, and in int8 where the file says so.

It has OpenVINO's latency hint for one query in flight, and its throughput hint for several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
PRECISION = "f32"
unavailable = _openvino.unavailable
OPTIONS = _openvino.OPTIONS
load_library = _openvino.load_library


def settings(threads: int, options: Iterable[str] = ()) -> dict[str, Any]:
    """Return OpenVINO's properties for one query in flight."""
    return _openvino.configuration(PRECISION, threads, 1, options)


def open(
    path: Path, device: str, batch_size: int, threads: int, slots: int = 1, options: Iterable[str] = ()
) -> Session:
    """Open an .onnx file, a folder that holds one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, PRECISION, threads, slots, options)
