"""PyTorch eager: the model as trained, from safetensors.

In inference mode, contiguous (NCHW) as the other runtimes are fed, without autocast or compilation: the plain baseline.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tasks.machine import missing_gpu

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

FORMATS = ("safetensors",)


def unavailable(device: str) -> str | None:
    """Why PyTorch cannot run on `device`, or None."""
    return missing_gpu(device) if importlib.util.find_spec("torch") else "PyTorch is not installed"


def load_library(device: str) -> None:
    """Import PyTorch and, on a GPU, create the CUDA context."""
    import safetensors.torch  # noqa: F401
    import torch

    import models  # noqa: F401

    if device != "cpu":
        torch.zeros(1, device=device)


class Session:
    """A model in evaluation mode. On CUDA a query holds the copy to the GPU, the model and the copy back."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        import torch

        import models

        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True  # choose convolution algorithms by timing, as ONNX Runtime does
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._torch, self._device = torch, device
        self._model = models.load(path).to(device).eval()
        self.provider = f"PyTorch eager ({next(self._model.parameters()).device})"

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width) -> logits float32 (batch, classes)."""
        with self._torch.inference_mode():
            return self._model(self._torch.from_numpy(inputs).to(self._device)).float().cpu().numpy()

    def close(self) -> None:
        """Let go of the weights."""
        del self._model


def open(path: Path, device: str, batch_size: int, threads: int) -> Session:
    """Open a file that `models.save` wrote."""
    return Session(path, device, threads)
