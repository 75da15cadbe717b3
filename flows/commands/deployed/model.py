"""The model file in the runtime that it was measured in, with the settings that it was measured with."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import quota

# read when ONNX Runtime is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
Query = Callable[[numpy.ndarray], numpy.ndarray]


class Model:
    """Answers queries of one image each.

    As many are in flight at a time as have their measured number of threads each: a query has the cores that it was
    measured with.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        usable = quota.usable_processors()
        self.threads = min(about["threads"], usable)
        if self.threads < about["threads"]:
            told = (
                f"the model was measured with {about['threads']} threads; this machine or container has {usable} for it"
            )
            print(told, file=sys.stderr)
        self._turns = threading.BoundedSemaphore(max(1, usable // self.threads))
        self._shape = (1, *about["image_shape"])
        self._query = OPEN[about["runtime"]](folder / about["file"], about["settings"], self.threads, self._shape)
        # the first query takes longer: not a user's
        self.logits(numpy.zeros(self._shape, "float32"))

    def logits(self, inputs: numpy.ndarray) -> numpy.ndarray:
        """Normalised float32 (1, channels, height, width) -> logits (1, classes)."""
        with self._turns:
            return self._query(inputs)


def _onnxruntime(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = settings["inter_op_num_threads"]
    options.execution_mode = getattr(onnxruntime.ExecutionMode, settings["execution_mode"])
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings["graph_optimization_level"])
    for key, value in settings["entries"].items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, answers = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda inputs: session.run(answers, {name: inputs})[0]


def _openvino(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not to be imported
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # as measured: compiled for the shape that comes
    model.reshape({0: openvino.PartialShape(list(shape))})
    asked = settings["INFERENCE_PRECISION_HINT"]
    try:
        compiled = core.compile_model(model, "CPU", settings | {"INFERENCE_NUM_THREADS": str(threads)})
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1].strip()
        raise SystemExit(
            f"OpenVINO cannot compile the model in {asked}, as it was measured, on this CPU: {said}"
        ) from None
    given = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if given != asked:
        raise SystemExit(
            f"the model was measured in {asked}, which this CPU does not compute in (OpenVINO gave {given}); "
            "deploy another form: burnish deploy --variant NAME"
        )
    # A request a query: one request does not serve two threads.
    return lambda inputs: compiled.create_infer_request().infer([inputs])[0]


def _torchscript(path: Path, settings: dict[str, Any], threads: int, shape: tuple[int, ...]) -> Query:
    import torch

    torch.set_num_threads(threads)
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


def probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    """Softmax of one image's logits, float64 (classes,).

    Raises
    ------
    ArithmeticError
        If the model's answer is not finite.
    """
    if not math.isfinite(float(logits.sum())):
        raise ArithmeticError("the model's answer is not a finite number")
    weights = numpy.exp(logits - logits.max())
    return weights / weights.sum()
