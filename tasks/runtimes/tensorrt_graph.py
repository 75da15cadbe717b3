"""TensorRT, or TensorRT for RTX, with CUDA graphs: the engine's kernels are recorded once and then launched as one.

Each input shape has a graph and an execution context of its own, which the first query of that shape records. A graph
holds only the engine. Copies to and from the GPU stay outside it, so that `split` can time them by themselves.
"""

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


class Model:
    """The CUDA graphs of an engine, one per input shape."""

    def __init__(self, engine: _tensorrt.Engine, stream: torch.cuda.Stream) -> None:
        self._engine = engine
        self._stream = stream
        self.provider = f"{engine.name} ({engine.device}, CUDA graph)"
        # By the address of the inputs: each shape has its own.
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, _tensorrt.Bound]] = {}

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Launch the graph in the slot's stream, and return its output."""
        if inputs.data_ptr() not in self._graphs:
            self._graphs[inputs.data_ptr()] = self._record(inputs)
        graph, bound = self._graphs[inputs.data_ptr()]
        graph.replay()
        return _tensorrt.answer(bound)

    def _record(self, inputs: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, _tensorrt.Bound]:
        """Record and return the graph for inputs of this shape, and what it is bound to."""
        import torch

        bound = _tensorrt.Bound(self._engine, self._engine.context(), inputs)
        # TensorRT does some work once per shape, which must not be recorded.
        bound.enqueue(self._stream)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # "thread_local" lets the threads of other slots make calls that recording forbids this thread.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            bound.enqueue(self._stream)
        return graph, bound


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a serialized engine. `threads` has no effect, because it counts threads on a CPU."""
    engine = _tensorrt.Engine(path, device, batch_size)
    return _cuda.Session(device, lambda stream: Model(engine, stream))
