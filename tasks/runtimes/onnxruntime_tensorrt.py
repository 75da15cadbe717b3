"""ONNX Runtime on its TensorRT execution provider, which builds engines when it opens a file and keeps none on disk.

A model opens only where TensorRT takes all of it: nodes that TensorRT does not take would run on the CPU. The provider
needs one major version of TensorRT, which ONNX Runtime's packages do not contain.
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import os
from importlib import metadata
from typing import TYPE_CHECKING

from tasks.runtimes import _cuda, _onnxruntime
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("onnx",)
QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}
# The major version of TensorRT that ONNX Runtime 1.31's provider links (libnvinfer.so.10).
MAJOR = 10


def unavailable(device: str) -> str | None:
    """Return why ONNX Runtime's TensorRT provider cannot run on `device`, or None where it can."""
    if device == "cpu":
        return "ONNX Runtime's TensorRT provider executes on CUDA devices only, asked for cpu"
    reason = _onnxruntime.unavailable(device)
    if reason:
        return reason
    if importlib.util.find_spec("tensorrt"):
        version = metadata.version("tensorrt")
    else:
        # The library's name ends with its version, as in libnvinfer.so.10.
        version = (ctypes.util.find_library("nvinfer") or "").rpartition("so.")[2]
    if not version:
        return "TensorRT is not installed (neither the package tensorrt nor a library libnvinfer)"
    if int(version.partition(".")[0]) != MAJOR:
        return f"TensorRT {version} is installed, ONNX Runtime's provider needs TensorRT {MAJOR}"
    return None


def load_library(device: str) -> None:
    """Import ONNX Runtime, load TensorRT and create the CUDA context."""
    # The provider has no setting for TF32, and TensorRT uses it by default. This is NVIDIA's switch for a process.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if importlib.util.find_spec("tensorrt"):
        # ONNX Runtime finds a package's libraries only when they are loaded already.
        importlib.import_module("tensorrt")
    _onnxruntime.load_library(device)


def _quantized(file: Path) -> bool:
    """Return whether an ONNX file has quantize-dequantize (Q/DQ) nodes."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    return any(node.op_type in QUANTIZED for node in graph.node)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an .onnx file, or a folder that holds one and its external data.

    Raises
    ------
    RuntimeError
        If `device` is not a GPU, or ONNX Runtime cannot load TensorRT, or gives it only a part of the model.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    load_library(device)
    file = model_file(path)
    # The provider refuses "0" and "1" for these.
    settings = {
        "trt_engine_cache_enable": "False",
        "trt_timing_cache_enable": "False",
        "trt_fp16_enable": "False",
        "trt_int8_enable": str(_quantized(file)),
    }
    return _cuda.Session(
        device,
        lambda stream: _onnxruntime.Model(
            file, device, stream, "TensorrtExecutionProvider", settings, {"session.disable_cpu_ep_fallback": "1"}
        ),
    )
