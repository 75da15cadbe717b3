"""torch.compile in its default mode on a CPU, with frozen weights.

On a GPU it is in mode "reduce-overhead", which uses CUDA graphs, for one query in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.runtimes import _torch_compile

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.runtimes import Session

FORMATS = ("safetensors",)
unavailable = _torch_compile.unavailable
load_library = _torch_compile.load_library


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that `models.save` wrote."""
    return _torch_compile.open(path, device, threads, slots, None if device == "cpu" else "reduce-overhead")
