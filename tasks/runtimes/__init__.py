"""One file per way to execute a model; a file's name is the runtime's name, and there is no other list.

Such a file imports its library when it is told to, never at its top, and has

- `FORMATS`: the artifact formats that it executes;
- `unavailable(device)`: why it cannot run there (library missing, no such GPU), cheaply, or None;
- `load_library(device)`: import the library, so that what this takes is not counted as the model's memory;
- `open(path, device, batch_size, threads)`: a `Session` for batches of up to `batch_size` images, with `threads`
  intra-op threads on a CPU. It raises RuntimeError where another device than the one asked for would run.

On a GPU fp32 means fp32: TF32 is switched off wherever it is a runtime's default.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class Session(Protocol):
    """An opened model. `provider` names what really executes it."""

    provider: str

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width) in host memory -> logits float32 (batch, classes) in host memory."""

    def close(self) -> None:
        """Let go of the model and its memory."""


class Runtime(Protocol):
    """What a file in this folder offers."""

    FORMATS: tuple[str, ...]

    def unavailable(self, device: str) -> str | None: ...

    def load_library(self, device: str) -> None: ...

    def open(self, path: Path, device: str, batch_size: int, threads: int) -> Session: ...


def load(name: str) -> Runtime:
    """The runtime of that file name."""
    return cast("Runtime", importlib.import_module(f"{__name__}.{name}"))
