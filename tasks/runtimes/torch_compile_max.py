"""torch.compile in mode "max-autotune": kernels are chosen by timing them, which takes minutes.

On a GPU it uses CUDA graphs for one query in flight. On a CPU it chooses between the library and generated code for
matrix products; convolutions are the library's in every mode.
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
    mode = "max-autotune-no-cudagraphs" if device == "cpu" else "max-autotune"
    return _torch_compile.open(path, device, threads, slots, mode)
