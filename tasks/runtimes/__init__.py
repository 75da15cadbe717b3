"""One file per way to execute a model; a file's name is the runtime's name, and there is no other list.

Such a file imports its library when it is told to, never at its top, and has

- `FORMATS`: the artifact formats that it executes;
- `unavailable(device)`: why it cannot run there (library missing, no such GPU), cheaply, or None;
- `load_library(device)`: import the library, so that what this takes is not counted as the model's memory;
- `open(path, device, batch_size, threads, slots)`: a `Session`. It raises RuntimeError where another device or provider
  than the one asked for would run, ValueError where the file is not one that it executes;
- where `burnish deploy` can serve it, `settings(threads)`: what else the library is told for one query in flight on a
CPU, as
  JSON, so that the server is told the same.

On a GPU fp32 means fp32: TF32 is switched off wherever it is a runtime's default. On a CPU fp32 does too: OpenVINO
would take bf16 where the CPU has it. Files that begin with "_" are what several runtimes share.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


class Session(Protocol):
    """An opened model: one slot, in which one query is in flight at a time."""

    @property
    def provider(self) -> str:
        """What really executes it, as the library reports it."""

    @property
    def split(self) -> Callable[[np.ndarray], tuple[float, float, float, float]] | None:
        """On a GPU, one query's H2D, enqueue, compute and D2H in ms (see `_cuda.Session`); on a CPU None."""

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Answer one query, from host memory to host memory: the model's one input -> its first output.

        Classifiers take float32 (batch, channels, height, width) and give logits, float32 (batch, classes). The answer
        is the caller's: no later query writes into it.
        """

    def fork(self) -> Session:
        """Another slot of the same model, for use by another thread at the same time; itself where that is safe."""

    def close(self) -> None:
        """Let go of this slot, and with the last one of the model and its memory."""


class Runtime(Protocol):
    """What a file in this folder offers."""

    FORMATS: tuple[str, ...]

    def unavailable(self, device: str) -> str | None: ...

    def load_library(self, device: str) -> None: ...

    def open(self, path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
        """Open a model for batches of up to `batch_size`.

        Parameters
        ----------
        device : "cpu" or "cuda:<n>"
        threads : intra-op threads on a CPU, over all queries in flight
        slots : queries that will be in flight at a time, each from its own thread in its own fork. 1 means that latency
            counts, more that throughput does; a query then has threads // slots threads, at least one.
        """


def load(name: str) -> Runtime:
    """The runtime of that file name."""
    return cast("Runtime", importlib.import_module(f"{__name__}.{name}"))
