"""OpenVINO on a CPU with bf16 instructions: it runs fp32 files in bf16, which is OpenVINO's own default there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tasks import machine
from tasks.runtimes import _openvino

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx", "openvino")
# A CPU with one of these features has bf16 instructions.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit oneDNN, which OpenVINO computes with, to older instructions."""
WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of `LIMITS` with which OpenVINO (2026.4) compiles nothing in bf16, though it lists bf16 as a capability."""
PRECISION = "bf16"
OPTIONS = _openvino.OPTIONS
load_library = _openvino.load_library


def settings(threads: int, options: Iterable[str] = ()) -> dict[str, Any]:
    """Return OpenVINO's properties for one query in flight."""
    return _openvino.configuration(PRECISION, threads, 1, options)


def unavailable(device: str) -> str | None:
    """Return why OpenVINO cannot run in bf16 on `device`, or None where it can."""
    reason = _openvino.unavailable(device)
    if reason is None and not INSTRUCTIONS & set(machine.cpu()[1]):
        return "this CPU has no bf16 instructions"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name, "").upper() in WITHOUT]
    if reason is None and limits:
        return f"oneDNN is kept from bf16 instructions ({limits[0]})"
    return reason


def open(
    path: Path, device: str, batch_size: int, threads: int, slots: int = 1, options: Iterable[str] = ()
) -> Session:
    """Open an .onnx file, a folder that holds one and its external data, or an OpenVINO .xml file."""
    return _openvino.open(path, device, batch_size, PRECISION, threads, slots, options)
