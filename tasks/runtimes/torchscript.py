"""TorchScript: a frozen, traced module. Deprecated in PyTorch and still there.

`torch.jit.optimize_for_inference` is left out: on top of freezing it gained nothing (LeNet-5 and ResNet-34 at batch 1
and 8 on an AVX-512 CPU: 0.96 to 1.06 times the latency).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tasks.machine.causes import cause
from tasks.runtimes import _torch

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("torchscript",)
unavailable, load_library = _torch.unavailable, _torch.load_library


def settings(threads: int) -> dict[str, Any]:
    """Beside its threads PyTorch is told nothing on a CPU."""
    return {}


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that `torch.jit.save` wrote.

    Raises
    ------
    ValueError
        If it is not one.
    """
    import torch

    _torch.settle(threads, slots)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            module = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"{path.name} is not a TorchScript file: {cause(error)}") from error
    return _torch.session(module, device, f"TorchScript ({device})")
