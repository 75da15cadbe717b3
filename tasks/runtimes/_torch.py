"""What the runtimes that execute PyTorch modules share: eager, TorchScript, torch.compile."""

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
    """Why PyTorch cannot run on `device`, or None."""
    return missing_gpu(device) if importlib.util.find_spec("torch") else "PyTorch is not installed"


def load_library(device: str) -> None:
    """Import PyTorch and, on a GPU, create the CUDA context."""
    import torch  # noqa: F401

    if device != "cpu":
        _cuda.create_context(device)


def _answer(output: Any) -> torch.Tensor:
    """The first output; half precision becomes float32, as NumPy has no bf16."""
    first = output[0] if isinstance(output, tuple | list) else output
    return first.float() if first.is_floating_point() and first.itemsize == 2 else first


class Module:
    """A module as `_cuda.Session` takes it; without state, so that all slots share it."""

    def __init__(self, module: Callable[[torch.Tensor], Any], provider: str) -> None:
        self._module, self.provider = module, provider

    def enqueue(self, inputs: torch.Tensor) -> torch.Tensor:
        """Enqueue the module's kernels in the current stream."""
        return _answer(self._module(inputs))


class Session:
    """A module on the CPU. It has no state, and so serves any number of threads."""

    split = None

    def __init__(self, module: Callable[[torch.Tensor], Any], provider: str) -> None:
        import torch

        self._torch, self._module, self.provider = torch, module, provider

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Answer one query; see `tasks.runtimes.Session.run`."""
        with self._torch.inference_mode():
            return _answer(self._module(self._torch.from_numpy(inputs))).numpy()

    def fork(self) -> Session:
        """The session itself."""
        return self

    def close(self) -> None:
        """Let go of the module; a fork, being the same session, may have done so."""
        self.__dict__.pop("_module", None)


def settle(threads: int, slots: int) -> None:
    """Set PyTorch as every runtime on it is measured, for this process.

    A thread that uses PyTorch for the first time takes the number of threads that was set last, whichever set it.
    """
    import torch

    torch.set_num_threads(max(1, threads // slots))
    # choose convolution algorithms by timing, as ONNX Runtime does
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def session(module: Callable[[torch.Tensor], Any], device: str, provider: str) -> runtimes.Session:
    """A session of a module in inference mode whose weights are on `device` already."""
    if device == "cpu":
        return Session(module, provider)
    model = Module(module, provider)
    return _cuda.Session(device, lambda _: model)
