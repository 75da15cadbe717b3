"""PyTorch eager with the pointwise part of ConvNeXt's blocks in Triton kernels. It runs on a GPU only.

In everything else it is the runtime `eager`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.machine.devices import missing_triton
from tasks.runtimes import _torch

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("safetensors",)


def unavailable(device: str) -> str | None:
    """Return why Triton's kernels cannot run on `device`, or None where they can."""
    return missing_triton(device) or _torch.unavailable(device)


def load_library(device: str) -> None:
    """Import PyTorch, the kernels and the models' package, and create the CUDA context."""
    import safetensors.torch  # noqa: F401

    import models._triton  # noqa: F401

    _torch.load_library(device)


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that `models.save` wrote. Raise ValueError if its model has no block that can be fused."""
    import models

    _torch.settle(threads, slots)
    model = models.load(path).to(device).eval()
    models.fuse(model, models.architecture(path)["name"])
    return _torch.session(model, device, f"PyTorch eager with Triton kernels ({next(model.parameters()).device})")
