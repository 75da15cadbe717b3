"""Queries on a GPU, the same for every runtime: pinned host memory -> GPU -> model -> pinned host memory.

Copies and model run in one CUDA stream, each slot in its own. What differs between runtimes is how work is enqueued.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch


class Model(Protocol):
    """What a runtime brings along: a model that works in the stream that it was made for."""

    @property
    def provider(self) -> str:
        """What executes it."""

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the model in the current stream, without waiting for it.

        Inputs of one shape and type always come in the same memory. The output may be overwritten by the next query.
        """


def create_context(device: str) -> None:
    """Create the CUDA context, which belongs to a library's memory and not to a model's."""
    import torch

    torch.zeros(1, device=device)


class Session:
    """One slot: a stream, buffers for every shape that it has seen, and a model.

    Parameters
    ----------
    make : called once a slot, with the stream that the model is to work in
    """

    def __init__(self, device: str, make: Callable[[torch.cuda.Stream], Model]) -> None:
        import torch

        self._torch, self._device, self._make = torch, device, make
        self._stream = torch.cuda.Stream(device)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._model = make(self._stream)
        # weights may have been copied in another stream
        torch.cuda.synchronize(device)
        self.provider = self._model.provider
        self._inputs: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self._outputs: dict[tuple, torch.Tensor] = {}
        self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(4))

    def _to(self, inputs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs in pinned memory, memory on the GPU for them)."""
        key = inputs.shape, inputs.dtype
        given = self._torch.from_numpy(inputs)
        if key not in self._inputs:
            self._inputs[key] = (
                self._torch.empty(given.shape, dtype=given.dtype, pin_memory=True),
                self._torch.empty(given.shape, dtype=given.dtype, device=self._device),
            )
        host, device = self._inputs[key]
        host.copy_(given)
        return host, device

    def _back(self, output: torch.Tensor) -> torch.Tensor:
        """Pinned memory for an output."""
        key = output.shape, output.dtype
        if key not in self._outputs:
            self._outputs[key] = self._torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        return self._outputs[key]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Answer one query; see `tasks.runtimes.Session.run`."""
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            host, device = self._to(inputs)
            device.copy_(host, non_blocking=True)
            output = self._model.enqueue(device)
            answer = self._back(output)
            answer.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return answer.numpy().copy()

    def split(self, inputs: np.ndarray) -> tuple[float, float, float, float]:
        """Where one query's time goes, with trtexec's meanings, in ms.

        Returns
        -------
        h2d : copying the inputs to the GPU, between CUDA events; the stream being empty, also the host's call for it
        enqueue : the host's time in the asynchronous call; where it exceeds `compute`, the host is what limits
        compute : the model on the GPU, between CUDA events; gaps in which it waited for the host belong to it
        d2h : copying the output back, between CUDA events
        """
        before, copied, computed, after = self._events
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            host, device = self._to(inputs)
            before.record()
            device.copy_(host, non_blocking=True)
            copied.record()
            begin = perf_counter_ns()
            output = self._model.enqueue(device)
            enqueue = (perf_counter_ns() - begin) / 1e6
            computed.record()
            self._back(output).copy_(output, non_blocking=True)
            after.record()
        self._stream.synchronize()
        return before.elapsed_time(copied), enqueue, copied.elapsed_time(computed), computed.elapsed_time(after)

    def fork(self) -> Session:
        """Another slot with its own stream and buffers."""
        return Session(self._device, self._make)

    def close(self) -> None:
        """Let go of the model and the buffers."""
        self._stream.synchronize()
        self._inputs.clear()
        self._outputs.clear()
        del self._model, self._make
