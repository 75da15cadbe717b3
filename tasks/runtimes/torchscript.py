"""TorchScript: a traced module with frozen weights. PyTorch calls it deprecated and still has it.

`torch.jit.optimize_for_inference` is not used, because on a frozen module it gained nothing: 0.96 to 1.06 times the
latency for LeNet-5 and ResNet-34 at batch sizes 1 and 8 on a CPU with AVX-512.
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
unavailable = _torch.unavailable
load_library = _torch.load_library


def settings(threads: int) -> dict[str, Any]:
    """Return no settings: on a CPU, PyTorch has none but its number of threads."""
    return {}


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that `torch.jit.save` wrote.

    Raises
    ------
    ValueError
        If it is not a TorchScript file.
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
