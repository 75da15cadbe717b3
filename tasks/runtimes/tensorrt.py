"""TensorRT, or TensorRT for RTX: engines on an NVIDIA GPU, with each query enqueued by the library's own call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtimes import _cuda, _tensorrt

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tasks.runtimes import Session

FORMATS = ("engine",)
unavailable = _tensorrt.unavailable
load_library = _tensorrt.load_library
describe = _tensorrt.describe


class Model:
    """One execution context, which is bound anew when inputs of another shape come."""

    def __init__(self, engine: _tensorrt.Engine, stream: torch.cuda.Stream) -> None:
        self._context = engine.context()
        self._engine = engine
        self._stream = stream
        self.provider = f"{engine.name} ({engine.device})"
        # By the address of the inputs: each shape has its own.
        self._bound: dict[int, _tensorrt.Bound] = {}
        self._current: _tensorrt.Bound | None = None

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the engine in the slot's stream, and return its output."""
        bound = self._bound.get(inputs.data_ptr())
        if bound is None:
            bound = self._bound[inputs.data_ptr()] = _tensorrt.Bound(self._engine, self._context, inputs)
        elif bound is not self._current:
            bound.bind()
        self._current = bound
        bound.enqueue(self._stream)
        return _tensorrt.answer(bound)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a serialized engine. `threads` has no effect, because it counts threads on a CPU."""
    engine = _tensorrt.Engine(path, device, batch_size)
    return _cuda.Session(device, lambda stream: Model(engine, stream))
