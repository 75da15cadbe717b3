"""TorchScript: a frozen, traced module. Deprecated in PyTorch and still there.

`torch.jit.optimize_for_inference` is left out: on top of freezing it gained nothing (LeNet-5 and ResNet-34 at batch 1
and 8 on an AVX-512 CPU: 0.96 to 1.06 times the latency).
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING

from tasks.machine import missing_gpu

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

FORMATS = ("torchscript",)


def unavailable(device: str) -> str | None:
    """Why PyTorch cannot run on `device`, or None."""
    return missing_gpu(device) if importlib.util.find_spec("torch") else "PyTorch is not installed"


def load_library(device: str) -> None:
    """Import PyTorch and, on a GPU, create the CUDA context."""
    import torch

    if device != "cpu":
        torch.zeros(1, device=device)


class Session:
    """A loaded module. On CUDA a query holds the copy to the GPU, the module and the copy back."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._torch, self._device = torch, device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._module = torch.jit.load(str(path), map_location=device)
        self.provider = f"TorchScript ({device})"

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width) -> logits float32 (batch, classes)."""
        with self._torch.inference_mode():
            return self._module(self._torch.from_numpy(inputs).to(self._device)).float().cpu().numpy()

    def close(self) -> None:
        """Let go of the module."""
        del self._module


def open(path: Path, device: str, batch_size: int, threads: int) -> Session:
    """Open a file that `torch.jit.save` wrote."""
    return Session(path, device, threads)
