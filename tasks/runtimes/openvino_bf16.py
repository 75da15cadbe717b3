"""OpenVINO on a CPU with bf16 instructions: fp32 files in bf16, which is OpenVINO's own default there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tasks import machine
from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN, which OpenVINO computes with, to older instructions."""
WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of these with which OpenVINO compiles nothing in bf16, though it names bf16 among its capabilities
(2026.4)."""
PRECISION = "bf16"
load_library = _openvino.load_library


def settings(threads: int) -> dict[str, Any]:
    """OpenVINO's properties for one query in flight."""
    return _openvino.configuration(PRECISION, threads, 1)


def unavailable(device: str) -> str | None:
    """Why OpenVINO cannot run in bf16 on `device`, or None."""
    reason = _openvino.unavailable(device)
    if reason is None and not INSTRUCTIONS & set(machine.cpu()[1]):
        return "this CPU has no bf16 instructions"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name, "").upper() in WITHOUT]
    if reason is None and limits:
        return f"oneDNN is kept from bf16 instructions ({limits[0]})"
    return reason


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an ONNX file, a folder with one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, PRECISION, threads, slots)
