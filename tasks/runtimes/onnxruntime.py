"""ONNX Runtime on its CPU or CUDA execution provider, with all graph optimizations.

Operators run one after the other. Its threads spin while a query runs, as by default, and stop with its end: by default
they go on for some 20 ms, which on a machine with other candidates waiting is the other's time.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tasks.machine import missing_gpu

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

FORMATS = ("onnx",)
ERROR = 3  # log level: its GPU build warns of every missing GPU


def unavailable(device: str) -> str | None:
    """Why ONNX Runtime cannot run on `device`, or None."""
    return missing_gpu(device) if importlib.util.find_spec("onnxruntime") else "ONNX Runtime is not installed"


def load_library(device: str) -> None:
    """Import ONNX Runtime and, for a GPU, load the CUDA libraries that wheels of the environment carry."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(ERROR)
    if device != "cpu":
        onnxruntime.preload_dlls()


class Session:
    """An inference session. On CUDA a query holds the copies of inputs and outputs."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        import onnxruntime

        load_library(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = ERROR
        options.add_session_config_entry("session.force_spinning_stop", "1")
        asked, settings = "CPUExecutionProvider", {}
        if device != "cpu":
            asked, settings = "CUDAExecutionProvider", {"device_id": device.partition(":")[2], "use_tf32": "0"}
        self._session = onnxruntime.InferenceSession(str(model_file(path)), options, providers=[(asked, settings)])
        self.provider = self._session.get_providers()[0]
        if self.provider != asked:
            raise RuntimeError(f"asked for {asked}, ONNX Runtime gave {self.provider}")
        self._input = self._session.get_inputs()[0].name

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width) -> logits float32 (batch, classes)."""
        return self._session.run(None, {self._input: inputs})[0]

    def close(self) -> None:
        """Let go of the session."""
        del self._session


def model_file(path: Path) -> Path:
    """The .onnx file itself, where `path` is a folder that holds it beside its external data.

    Raises
    ------
    ValueError
        If the folder does not hold exactly one .onnx file.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.onnx"))
    if len(found) != 1:
        raise ValueError(f"{path} must hold one .onnx file, it has {len(found)}")
    return found[0]


def open(path: Path, device: str, batch_size: int, threads: int) -> Session:
    """Open an ONNX file, or a folder with one and its external data."""
    return Session(path, device, threads)
