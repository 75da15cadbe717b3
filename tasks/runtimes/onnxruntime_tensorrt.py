"""ONNX Runtime on its TensorRT execution provider: it builds engines when it opens a file, and keeps none on disk.

The whole model is TensorRT's or it does not open: nodes that it does not take would run on the CPU. This provider is
bound to a TensorRT of one major version, which wheels of ONNX Runtime do not carry.
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
# ONNX Runtime 1.31's provider links libnvinfer.so.10
MAJOR = 10


def unavailable(device: str) -> str | None:
    """Why ONNX Runtime's TensorRT provider cannot run on `device`, or None."""
    if device == "cpu":
        return "ONNX Runtime's TensorRT provider executes on CUDA devices only, asked for cpu"
    reason = _onnxruntime.unavailable(device)
    if reason:
        return reason
    # such as libnvinfer.so.10
    library = ctypes.util.find_library("nvinfer") or ""
    found = metadata.version("tensorrt") if importlib.util.find_spec("tensorrt") else library.rpartition("so.")[2]
    if not found:
        return "TensorRT is not installed (neither the package tensorrt nor a library libnvinfer)"
    if int(found.partition(".")[0]) != MAJOR:
        return f"TensorRT {found} is installed, ONNX Runtime's provider needs TensorRT {MAJOR}"
    return None


def load_library(device: str) -> None:
    """Import ONNX Runtime, load TensorRT and create the CUDA context."""
    # The provider has no setting for TF32, and TensorRT's default is on; this is NVIDIA's own switch for the process.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if importlib.util.find_spec("tensorrt"):
        # a package's libraries are found once they are loaded
        importlib.import_module("tensorrt")
    _onnxruntime.load_library(device)


def _quantized(file: Path) -> bool:
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    return any(node.op_type in QUANTIZED for node in graph.node)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open an ONNX file, or a folder with one and its external data.

    Raises
    ------
    RuntimeError
        If `device` is no GPU, or ONNX Runtime cannot load TensorRT or gives it only a part of the model.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    load_library(device)
    file = model_file(path)
    # "0" and "1" are refused
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
