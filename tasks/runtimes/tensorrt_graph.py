"""TensorRT, or TensorRT for RTX, with CUDA graphs: the engine's kernels are recorded once and launched as one.

A graph for each input shape, each of an execution context of its own, recorded by the first query of that shape. It
holds the engine alone; copies to and from the GPU stay outside, so that `split` tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtimes import _cuda, _tensorrt

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tasks.runtimes import Session

FORMATS = ("engine",)
unavailable, load_library = _tensorrt.unavailable, _tensorrt.load_library


class Model:
    """Graphs of an engine, one for each input shape."""

    def __init__(self, engine: _tensorrt.Engine, stream: torch.cuda.Stream) -> None:
        self._engine, self._stream = engine, stream
        self.provider = f"{engine.name} ({engine.device}, CUDA graph)"
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, _tensorrt.Bound]] = {}

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Launch the graph in the slot's stream."""
        if inputs.data_ptr() not in self._graphs:
            self._graphs[inputs.data_ptr()] = self._record(inputs)
        graph, bound = self._graphs[inputs.data_ptr()]
        graph.replay()
        return _tensorrt.answer(bound)

    def _record(self, inputs: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, _tensorrt.Bound]:
        import torch

        bound = _tensorrt.Bound(self._engine, self._engine.context(), inputs)
        # what happens once for a shape must not be recorded
        bound.enqueue(self._stream)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: other slots' threads may go on with calls that recording forbids this one
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            bound.enqueue(self._stream)
        return graph, bound


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a serialized engine; `threads` is for CPUs."""
    engine = _tensorrt.Engine(path, device, batch_size)
    return _cuda.Session(device, lambda stream: Model(engine, stream))
