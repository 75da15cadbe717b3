"""Runtimes: one file per way to execute a model. A file's name is the runtime's name, and there is no other list.

A runtime's file never imports its library at the top, only inside its functions. It has

- `FORMATS`: the artifact formats that it executes;
- `unavailable(device)`: return why it cannot run on a device (its library is not installed, there is no such GPU), or
  None where it can. This is quick and imports no library. A runtime without GPUs says "... on cpu only, asked for
  cuda:0";
- `load_library(device)`: import the library. It is a step of its own so that the memory which this takes is not counted
  as the model's;
- `open(path, device, batch_size, threads, slots)`: return a `Session`. It raises RuntimeError where another device or
  provider than the wanted one would run, and ValueError where the runtime cannot execute the file;
- where it executes with other libraries than PyTorch, ONNX Runtime, OpenVINO and TensorRT, `LIBRARIES`: the names of
  their distributions, so that another version is measured anew;
- where `burnish deploy` can serve it, `settings(threads)`: return the library's other settings for one query in flight
  on a CPU, as JSON, so that the server sets the same;
- where it has settings that are faster on some machines and slower on others, `OPTIONS`: a short name -> the library's
  settings that it stands for. `open` and `settings` then take the names of `options`, which replace usual settings.

fp32 means fp32. On a GPU, TF32 is switched off wherever it is a runtime's default. On a CPU, OpenVINO is kept from
bf16. Files whose names begin with "_" have what several runtimes share.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np


USUAL = {
    "safetensors": "eager",
    "torchscript": "torchscript",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "engine": "tensorrt",
}
"""Format -> the runtime in which a file of it is measured or profiled where the user names none."""


class Session(Protocol):
    """One slot of an opened model: at any time it has one query in flight."""

    @property
    def provider(self) -> str:
        """The execution provider or back end that runs the model, as the library reports it, with cpu or cuda in it."""

    @property
    def split(self) -> Callable[[np.ndarray], tuple[float, float, float, float]] | None:
        """A function that runs one query and returns where its time went, in milliseconds. None on a CPU.

        The parts are host-to-device copy (H2D), enqueue, compute and device-to-host copy (D2H): see `_cuda.Session`.
        """

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Run one query, and return the model's first output for its one input. Both are in host memory.

        Classifiers take float32 (batch, channels, height, width) and return logits, float32 (batch, classes). The
        output belongs to the caller: no later query writes into it.
        """

    def fork(self) -> Session:
        """Return another slot of the same model, which another thread may use at the same time."""

    def close(self) -> None:
        """Release this slot. With the last slot the model and its memory are released, too."""


class Runtime(Protocol):
    """The functions that a runtime's file has; see the module's docstring."""

    FORMATS: tuple[str, ...]

    def unavailable(self, device: str) -> str | None: ...

    def load_library(self, device: str) -> None: ...

    def open(self, path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
        """Open a model for batches of up to `batch_size`.

        Parameters
        ----------
        device : "cpu" or "cuda:<n>"
        threads : threads on a CPU that compute, over all queries in flight
        slots : how many queries will be in flight at a time, each from a thread of its own and in a fork of its own.
            1 means that latency counts. More means that throughput counts; a query then has threads // slots threads,
            at least one.
        """


def load(name: str) -> Runtime:
    """Return the runtime with this name."""
    return cast("Runtime", importlib.import_module(f"{__name__}.{name}"))


def options_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the `OPTIONS` of a runtime; empty where it has none."""
    options: Mapping[str, Mapping[str, Any]] = getattr(load(name), "OPTIONS", {})
    return options


def open_model(
    name: str, path: Path, device: str, batch_size: int, threads: int, slots: int = 1, options: Iterable[str] = ()
) -> Session:
    """Open a model in the runtime with this name, as its `open` does, with options of it."""
    return load(name).open(path, device, batch_size, threads, slots, **_named(options))


def settings_of(name: str, threads: int, options: Iterable[str] = ()) -> dict[str, Any]:
    """Return the `settings` of a runtime that has them, with options of it."""
    settings: dict[str, Any] = load(name).settings(threads, **_named(options))  # type: ignore[attr-defined]
    return settings


def _named(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the argument `options`, which only runtimes with options take."""
    names = tuple(options)
    return {"options": names} if names else {}


def merged(settings: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the values of others in place of their own, also within mappings that are values."""
    result = dict(settings)
    for other in others:
        for key, value in other.items():
            result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result
