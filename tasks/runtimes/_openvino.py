"""Shared by the runtimes on OpenVINO: its CPU plug-in, in a given precision.

Where the CPU has bf16 instructions, OpenVINO (2026.4) runs an fp32 file in bf16 unless the precision is set. So it is
set, and the precision of the compiled model is checked. A model with a free batch size is compiled for each shape of
inputs, by the first query of that shape: compiled with a free batch size, a quarter-width ResNet-34 at 64×64 pixels
took 1.17 times as long. Only the newest compiled model is kept, so that memory holds one model.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.machine.causes import cause
from tasks.runtimes import merged
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def unavailable(device: str) -> str | None:
    """Return why OpenVINO cannot run on `device`, or None where it can."""
    if device != "cpu":
        return f"burnish runs OpenVINO on cpu only, asked for {device}"
    return None if importlib.util.find_spec("openvino") else "OpenVINO is not installed"


def library() -> Any:
    """Import OpenVINO without its telemetry, and return it.

    The telemetry forks this process to send its data, and the fork hangs on a lock of stdin.
    """
    # None in this place makes the import of the telemetry fail, with which OpenVINO copes.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def core() -> Any:
    """Return the process's one `openvino.Core`, which lives as long as the process.

    The first model that a Core compiles gives the calling thread another stack for its signal handlers, and the Core's
    end takes that away (2026.4, where the CPU has AMX). Of two Cores, the end of the older one leaves the thread with a
    stack that is gone: then the next signal that Python handles ends the process with SIGSEGV.
    """
    return library().Core()


def load_library(device: str) -> None:
    """Import OpenVINO and load its CPU plug-in."""
    core().get_property("CPU", "FULL_DEVICE_NAME")


OPTIONS = {
    "no-pinning": {"ENABLE_CPU_PINNING": "NO"},
    "no-hyper-threading": {"ENABLE_HYPER_THREADING": "NO"},
    "performance-cores": {"SCHEDULING_CORE_TYPE": "PCORE_ONLY"},
    "throughput-hint": {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": "1"},
}
"""Name of an option -> the properties that it stands for."""


def configuration(precision: str, threads: int, slots: int, options: Iterable[str] = ()) -> dict[str, Any]:
    """Return OpenVINO's properties for `slots` queries in flight on `threads` threads, in f32 or bf16."""
    hint = {"PERFORMANCE_HINT": "LATENCY"}
    if slots > 1:
        hint = {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": str(slots)}
    usual = hint | {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(threads)}
    return merged(usual, *(OPTIONS[name] for name in options))


class Model:
    """A model that is compiled for the latest shape of inputs. All slots share it.

    Raises
    ------
    ValueError
        If OpenVINO cannot read the file, or the model does not have exactly one input.
    RuntimeError
        If the compiled model has another precision than `precision`.
    """

    def __init__(self, path: Path, batch_size: int, precision: str, configuration: dict[str, Any]) -> None:
        openvino = library()
        self._lock = threading.Lock()
        self._configuration = configuration
        self._openvino = openvino
        self._core = core()
        try:
            self._model = self._core.read_model(model_file(path))
        except RuntimeError as error:
            raise ValueError(f"{path.name}: OpenVINO does not read it: {cause(error)}") from error
        if len(self._model.inputs) != 1:
            raise ValueError(f"{path.name}: expected one input, found {len(self._model.inputs)}")
        # Two threads that make the first such call of a process at once wait for each other for ever (2026.4). So one
        # thread makes it, here.
        self._type = self._model.input(0).get_element_type().to_dtype()
        self._accepted = self._model.input(0).partial_shape
        shape = self._accepted
        if shape.rank.is_static and len(shape) and shape[0].is_dynamic:
            shape = openvino.PartialShape([batch_size, *list(shape)[1:]])
        # The shape that the model is compiled for now. None after a compilation that failed.
        self._shape = shape
        self._compiled = self._compile(shape)
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != precision:
            raise RuntimeError(f"asked for {precision}, OpenVINO gave {used}")
        self.provider = self._describe(precision)

    def _describe(self, precision: str) -> str:
        """Return what really executes the compiled model: device, precision, streams and threads."""
        devices = ", ".join(self._compiled.get_property("EXECUTION_DEVICES"))
        streams = self._compiled.get_property("NUM_STREAMS")
        threads = self._compiled.get_property("INFERENCE_NUM_THREADS")
        counts = f"{streams} stream{'s' if streams > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
        return f"OpenVINO {devices} ({precision}, {counts})"

    def _compile(self, shape: Any) -> Any:
        """Return the model compiled for inputs of one shape."""
        self._model.reshape({0: shape})
        return self._core.compile_model(self._model, "CPU", self._configuration)

    def request(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return a new inference request for inputs of one shape and type.

        Raises
        ------
        ValueError
            If the model does not take inputs of this shape or type.
        """
        if dtype != self._type:
            raise ValueError(f"the model takes inputs of type {self._type}, got {dtype}")
        wanted = self._openvino.PartialShape(list(shape))
        with self._lock:
            if wanted != self._shape:
                if not self._accepted.compatible(wanted):
                    raise ValueError(f"the model takes inputs of shape {self._accepted}, got {list(shape)}")
                # The old one is released first: two at a time would take more memory than a model needs.
                self._compiled = None
                try:
                    self._compiled = self._compile(wanted)
                except RuntimeError as error:
                    self._shape = None
                    raise ValueError(
                        f"the model does not take inputs of shape {list(shape)}: {cause(error)}"
                    ) from error
                self._shape = wanted
            return self._compiled.create_infer_request()


class Session:
    """One slot: an inference request.

    Inputs are copied into the request's own memory. Letting the request read them where they are took longer: 1.07
    times as long for a query of 0.5 ms, 1.03 times for one of 2.6 ms, because OpenVINO then connects the memory in
    every query.
    """

    split = None

    def __init__(self, model: Model) -> None:
        self._model = model
        self.provider = model.provider
        self._request: Any = None
        self._inputs: np.ndarray = np.empty(0, np.void)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Run one query; see `tasks.runtimes.Session.run`."""
        if inputs.shape != self._inputs.shape or inputs.dtype != self._inputs.dtype:
            # The old request is released first, because it holds memory.
            self._inputs = np.empty(0, np.void)
            self._request = None
            request = self._model.request(inputs.shape, inputs.dtype)
            self._inputs = request.get_input_tensor(0).data
            self._request = request
        np.copyto(self._inputs, inputs)
        self._request.infer(share_outputs=True)
        return self._request.get_output_tensor(0).data.copy()

    def fork(self) -> Session:
        """Return another inference request of the same compiled model."""
        return Session(self._model)

    def close(self) -> None:
        """Release the request."""
        del self._inputs, self._request, self._model


def open(
    path: Path, device: str, batch_size: int, precision: str, threads: int, slots: int, options: Iterable[str] = ()
) -> Session:
    """Open an .onnx file, a folder that holds one and its external data, or an OpenVINO .xml file with its .bin file.

    Raises
    ------
    RuntimeError
        If `device` is not the CPU.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    return Session(Model(path, batch_size, precision, configuration(precision, threads, slots, options)))
