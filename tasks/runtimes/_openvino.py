"""What the runtimes on OpenVINO share: its CPU plug-in, in the precision asked for.

OpenVINO runs an fp32 file in bf16 where the CPU has bf16 instructions (2026.4), unless it is told the precision; which
one the compiled model has is checked. A model with a free batch size is compiled for each shape that comes, by the
first query of that shape: compiled with a free one, a quarter-width ResNet-34 at 64×64 pixels took 1.17 times as long.
Only the newest is kept, so that memory is one model's.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.machine.causes import cause
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from pathlib import Path


def unavailable(device: str) -> str | None:
    """Why OpenVINO cannot run on `device`, or None."""
    if device != "cpu":
        return f"OpenVINO executes on cpu only here, asked for {device}"
    return None if importlib.util.find_spec("openvino") else "OpenVINO is not installed"


def library() -> Any:
    """OpenVINO, imported without its telemetry: that forks this process to send, and the fork hangs on a lock of
    stdin."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not to be imported
    import openvino

    return openvino


def load_library(device: str) -> None:
    """Import OpenVINO and load its CPU plug-in."""
    library().Core().get_property("CPU", "FULL_DEVICE_NAME")


def configuration(precision: str, threads: int, slots: int) -> dict[str, Any]:
    """OpenVINO's properties for `slots` queries in flight on `threads` threads; `precision`: f32 or bf16."""
    hint = {"PERFORMANCE_HINT": "LATENCY"}
    if slots > 1:
        hint = {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": str(slots)}
    return hint | {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(threads)}


class Model:
    """A model compiled for the shape asked for last; all slots share it.

    Raises
    ------
    ValueError
        If OpenVINO does not read the file, or it has not exactly one input.
    RuntimeError
        If the compiled model has another precision than the one asked for.
    """

    def __init__(self, path: Path, batch_size: int, precision: str, threads: int, slots: int) -> None:
        openvino = library()
        self._lock, self._configuration = threading.Lock(), configuration(precision, threads, slots)
        self._core, self._openvino = openvino.Core(), openvino
        try:
            self._model = self._core.read_model(model_file(path))
        except RuntimeError as error:
            raise ValueError(f"{path.name}: OpenVINO does not read it: {cause(error)}") from error
        if len(self._model.inputs) != 1:
            raise ValueError(f"{path.name}: expected one input, found {len(self._model.inputs)}")
        # Here, by one thread: two at once in the first such call of a process wait for each other for ever (2026.4).
        self._type = self._model.input(0).get_element_type().to_dtype()
        self._accepted = self._model.input(0).partial_shape
        first = self._accepted
        if first.rank.is_static and len(first) and first[0].is_dynamic:
            first = openvino.PartialShape([batch_size, *list(first)[1:]])
        self._shape = first
        self._compiled = self._compile(first)
        given = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if given != precision:
            raise RuntimeError(f"asked for {precision}, OpenVINO gave {given}")
        self.provider = (
            f"OpenVINO {', '.join(self._compiled.get_property('EXECUTION_DEVICES'))} ({given}, "
            + ", ".join(
                f"{n} {what}{'s' if n > 1 else ''}"
                for what, n in (
                    ("stream", self._compiled.get_property("NUM_STREAMS")),
                    ("thread", self._compiled.get_property("INFERENCE_NUM_THREADS")),
                )
            )
            + ")"
        )

    def _compile(self, shape: Any) -> Any:
        self._model.reshape({0: shape})
        return self._core.compile_model(self._model, "CPU", self._configuration)

    def request(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new inference request for inputs of that shape.

        Raises
        ------
        ValueError
            If the model does not take that shape or type.
        """
        if dtype != self._type:
            raise ValueError(f"the model takes inputs of type {self._type}, got {dtype}")
        asked = self._openvino.PartialShape(list(shape))
        with self._lock:
            if asked != self._shape:
                if not self._accepted.compatible(asked):
                    raise ValueError(f"the model takes inputs of shape {self._accepted}, got {list(shape)}")
                # two at a time would be more memory than a model needs
                self._compiled = None
                try:
                    self._compiled = self._compile(asked)
                except RuntimeError as error:
                    self._shape = None
                    raise ValueError(
                        f"the model does not take inputs of shape {list(shape)}: {cause(error)}"
                    ) from error
                self._shape = asked
            return self._compiled.create_infer_request()


class Session:
    """One slot: an inference request.

    Inputs are copied into the request's own memory. To let it read them where they are took longer: 1.07 times the
    latency of copying for a query of 0.5 ms, 1.03 times for one of 2.6 ms, as OpenVINO then connects the memory at
    every query.
    """

    split = None

    def __init__(self, model: Model) -> None:
        self._model, self.provider = model, model.provider
        self._request: Any = None
        self._inputs: np.ndarray = np.empty(0, np.void)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Answer one query; see `tasks.runtimes.Session.run`."""
        if inputs.shape != self._inputs.shape or inputs.dtype != self._inputs.dtype:
            # the old one goes first: it holds memory
            self._inputs, self._request = np.empty(0, np.void), None
            request = self._model.request(inputs.shape, inputs.dtype)
            self._inputs, self._request = request.get_input_tensor(0).data, request
        np.copyto(self._inputs, inputs)
        self._request.infer(share_outputs=True)
        return self._request.get_output_tensor(0).data.copy()

    def fork(self) -> Session:
        """Another inference request of the same compiled model."""
        return Session(self._model)

    def close(self) -> None:
        """Let go of the request."""
        del self._inputs, self._request, self._model


def open(path: Path, device: str, batch_size: int, precision: str, threads: int, slots: int) -> Session:
    """Open an ONNX file, a folder with one and its external data, or an OpenVINO .xml file with its .bin beside it.

    Raises
    ------
    RuntimeError
        If `device` is not the CPU.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    return Session(Model(path, batch_size, precision, threads, slots))
