"""How a query runs on a GPU, the same for every runtime.

The input goes from pinned host memory to the GPU, through the model, and the output back to pinned host memory. Copies
and model run in one CUDA stream; each slot has a stream of its own. Runtimes differ only in how they enqueue the model.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch


class Model(Protocol):
    """A runtime's model, which works in the stream that it was made for."""

    @property
    def provider(self) -> str:
        """The execution provider or back end that runs it."""

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the model in the current stream, and return its output without waiting for it.

        Inputs of one shape and type are always at the same address. The next query may overwrite the output.
        """


def create_context(device: str) -> None:
    """Create the CUDA context, whose memory counts as the library's and not as the model's."""
    import torch

    torch.zeros(1, device=device)


class Session:
    """One slot on a GPU: a stream, a model, and buffers for every shape that it has seen.

    Parameters
    ----------
    make : makes the slot's model. It is called once per slot, with the stream that the model works in.
    """

    def __init__(self, device: str, make: Callable[[torch.cuda.Stream], Model]) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._make = make
        self._stream = torch.cuda.Stream(device)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._model = make(self._stream)
        # The weights may have been copied in another stream.
        torch.cuda.synchronize(device)
        self.provider = self._model.provider
        # (Pinned host memory, memory on the GPU) by shape and type of the input.
        self._inputs: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        # Pinned host memory by shape and type of the output.
        self._outputs: dict[tuple, torch.Tensor] = {}
        self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(4))

    def _input_buffers(self, inputs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the inputs to pinned memory, and return that and the memory on the GPU for them."""
        key = inputs.shape, inputs.dtype
        tensor = self._torch.from_numpy(inputs)
        if key not in self._inputs:
            self._inputs[key] = (
                self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True),
                self._torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device),
            )
        host, device = self._inputs[key]
        host.copy_(tensor)
        return host, device

    def _output_buffer(self, output: torch.Tensor) -> torch.Tensor:
        """Return the pinned memory for an output."""
        key = output.shape, output.dtype
        if key not in self._outputs:
            self._outputs[key] = self._torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        return self._outputs[key]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Run one query; see `tasks.runtimes.Session.run`."""
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            host, device = self._input_buffers(inputs)
            device.copy_(host, non_blocking=True)
            output = self._model.enqueue(device)
            buffer = self._output_buffer(output)
            buffer.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return buffer.numpy().copy()

    def split(self, inputs: np.ndarray) -> tuple[float, float, float, float]:
        """Run one query, and return where its time went, in milliseconds. The parts mean what they mean in trtexec.

        Returns
        -------
        h2d : time to copy the inputs to the GPU, between CUDA events. As the stream is empty, it includes the host's
            call for the copy.
        enqueue : the host's time in the asynchronous call of the model. Where it exceeds `compute`, the host is what
            limits.
        compute : time of the model on the GPU, between CUDA events. It includes gaps in which the GPU waited for the
            host.
        d2h : time to copy the output back, between CUDA events
        """
        before, copied, computed, after = self._events
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            host, device = self._input_buffers(inputs)
            before.record()
            device.copy_(host, non_blocking=True)
            copied.record()
            begin = perf_counter_ns()
            output = self._model.enqueue(device)
            enqueue = (perf_counter_ns() - begin) / 1e6
            computed.record()
            self._output_buffer(output).copy_(output, non_blocking=True)
            after.record()
        self._stream.synchronize()
        return before.elapsed_time(copied), enqueue, copied.elapsed_time(computed), computed.elapsed_time(after)

    def fork(self) -> Session:
        """Return another slot, which has a stream, a model and buffers of its own."""
        return Session(self._device, self._make)

    def close(self) -> None:
        """Release the model and the buffers."""
        self._stream.synchronize()
        self._inputs.clear()
        self._outputs.clear()
        del self._model, self._make
