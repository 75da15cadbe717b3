"""Run the model file in the runtime, and with the settings, in which burnish measured it."""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import quota

# ONNX Runtime reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
Query = Callable[[numpy.ndarray], numpy.ndarray]


class Model:
    """An opened model file.

    Attributes
    ----------
    query
        Returns the logits, (batch, classes), of normalised images: float32, (batch, channels, height, width). The
        caller has a turn.
    threads
        Number of threads of a query.
    note
        What a person should know about the number of threads; empty where it is as measured.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        usable = quota.usable_processors()
        self.threads = min(about["threads"], usable)
        self.note = ""
        if self.threads < about["threads"]:
            self.note = (
                f"the model was measured with {about['threads']} threads; this machine or container has {usable} for it"
            )
        self._turns = threading.BoundedSemaphore(max(1, usable // self.threads))
        shape = (1, *about["image_shape"])
        self.query = OPEN[about["runtime"]](folder / about["file"], about["settings"], self.threads, shape)
        # The first query takes longer, so it is made before any user's.
        self.query(numpy.zeros(shape, "float32"))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until a query may run: only so many run at a time that each has the cores that it was measured with."""
        with self._turns:
            yield


def _onnxruntime(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    """Open a model in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = settings["inter_op_num_threads"]
    options.execution_mode = getattr(onnxruntime.ExecutionMode, settings["execution_mode"])
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings["graph_optimization_level"])
    options.enable_cpu_mem_arena = settings.get("enable_cpu_mem_arena", True)
    for key, value in settings["entries"].items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, answers = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda inputs: session.run(answers, {name: inputs})[0]


def _openvino(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    """Open a model in OpenVINO; end the process where this CPU does not compute in the measured precision."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not to be imported
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # The model was measured compiled for the shape of its inputs, not for any shape.
    model.reshape({0: openvino.PartialShape(list(shape))})
    precision = settings["INFERENCE_PRECISION_HINT"]
    try:
        compiled = core.compile_model(model, "CPU", settings | {"INFERENCE_NUM_THREADS": str(threads)})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise SystemExit(
            f"OpenVINO cannot compile the model in {precision}, as it was measured, on this CPU: {reason}"
        ) from None
    compiled_precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if compiled_precision != precision:
        raise SystemExit(
            f"the model was measured in {precision}, which this CPU does not compute in (OpenVINO gave "
            f"{compiled_precision}); "
            "deploy another form: burnish deploy --variant NAME"
        )
    # Each query has a request of its own, because two threads cannot share one.
    return lambda inputs: compiled.create_infer_request().infer([inputs])[0]


def _torchscript(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    """Open a model in PyTorch."""
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # PyTorch calls TorchScript deprecated. The model was measured in it.
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu").eval()

    def query(inputs: numpy.ndarray) -> numpy.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs)).float().numpy()

    return query


OPEN = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino_bf16": _openvino,
    "torchscript": _torchscript,
}
"""The function that opens a model file, for each runtime."""


def probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    """Return the softmax of one image's logits; both are float64, (classes,).

    Raises
    ------
    ArithmeticError
        If a logit is not finite.
    """
    if not math.isfinite(float(logits.sum())):
        raise ArithmeticError("the model's answer is not a finite number")
    weights = numpy.exp(logits - logits.max())
    return weights / weights.sum()
