"""PyTorch eager: the model as it was trained, from a safetensors file. It is the plain baseline.

It runs in inference mode, without autocast or compilation, on contiguous inputs (NCHW) as the other runtimes get them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtimes import _torch

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("safetensors",)
unavailable = _torch.unavailable


def load_library(device: str) -> None:
    """Import PyTorch and the models' package and, on a GPU, create the CUDA context."""
    import safetensors.torch  # noqa: F401

    import models  # noqa: F401

    _torch.load_library(device)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that `models.save` wrote."""
    import models

    _torch.settle(threads, slots)
    model = models.load(path).to(device).eval()
    return _torch.session(model, device, f"PyTorch eager ({next(model.parameters()).device})")
