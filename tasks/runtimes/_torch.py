"""Shared by the runtimes that execute PyTorch modules: eager, TorchScript and torch.compile."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from tasks.machine.gpu import missing_gpu
from tasks.runtimes import _cuda

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from tasks import runtimes


def unavailable(device: str) -> str | None:
    """Return why PyTorch cannot run on `device`, or None where it can."""
    return missing_gpu(device) if importlib.util.find_spec("torch") else "PyTorch is not installed"


def load_library(device: str) -> None:
    """Import PyTorch and, on a GPU, create the CUDA context."""
    import torch  # noqa: F401

    if device != "cpu":
        _cuda.create_context(device)


def _answer(output: Any) -> torch.Tensor:
    """Return the first output. Half precision becomes float32, because NumPy has no bf16."""
    first = output[0] if isinstance(output, tuple | list) else output
    return first.float() if first.is_floating_point() and first.itemsize == 2 else first


class Module:
    """A module as the model of a `_cuda.Session`. It has no state, so that all slots share it."""

    def __init__(self, module: Callable[[torch.Tensor], Any], provider: str) -> None:
        self._module = module
        self.provider = provider

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the module's kernels in the current stream, and return its output."""
        return _answer(self._module(inputs))


class Session:
    """A module on the CPU. It has no state, so that any number of threads may use it."""

    split = None

    def __init__(self, module: Callable[[torch.Tensor], Any], provider: str) -> None:
        import torch

        self._torch = torch
        self._module = module
        self.provider = provider

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Run one query; see `tasks.runtimes.Session.run`."""
        with self._torch.inference_mode():
            return _answer(self._module(self._torch.from_numpy(inputs))).numpy()

    def fork(self) -> Session:
        """Return the session itself, which is safe for several threads."""
        return self

    def close(self) -> None:
        """Release the module. A fork is the same session, and may have released it already."""
        self.__dict__.pop("_module", None)


def settle(threads: int, slots: int) -> None:
    """Set PyTorch's global settings, for this process, as every runtime on PyTorch is measured.

    A thread that uses PyTorch for the first time takes the number of threads that any thread has set last.
    """
    import torch

    torch.set_num_threads(max(1, threads // slots))
    # Convolution algorithms are chosen by timing them, as ONNX Runtime does.
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def session(module: Callable[[torch.Tensor], Any], device: str, provider: str) -> runtimes.Session:
    """Return a session of a module that is in inference mode and has its weights on `device`."""
    if device == "cpu":
        return Session(module, provider)
    model = Module(module, provider)
    return _cuda.Session(device, lambda _: model)
