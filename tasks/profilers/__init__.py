"""One file a library that can say where the time of a query goes; it serves the runtimes that it names.

Such a file imports its library when it is told to, never at its top, and has

- `RUNTIMES`: names of the runtimes (tasks/runtimes) that execute with this library;
- `measure(path, runtime, device, threads, inputs, queries, folder)`: run `WARMUP` queries, then `queries` under the
  library's own profiler, write `trace.json` (Chrome's trace format) into `folder`, and return `Measured`.

A profiler slows a query down: its figures are shares, not latencies.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

WARMUP = 5
"""Queries before those that are recorded."""
Stacks = dict[tuple[str, ...], float]
"""Module path and operators, outermost first -> own time, ms a query; in the order of execution."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator as the library executed it, all its calls together."""

    name: str
    """As the library names it; findings name it."""
    path: str
    """Module of the model that it belongs to, parts apart by "/"; empty where the file does not tell."""
    type: str
    calls: int
    """In all queries that are summed up (`Measured.queries`)."""
    total_ms: float
    """Of these calls. On a CPU by the host's clock, on a GPU the device's time."""
    precision: str | None
    """Of its arithmetic: fp32, fp16, bf16, int8; None where the library does not say."""
    provider: str
    """Execution provider, or the implementation that was chosen."""
    unfused: bool = False
    """An operator that computes in floating point between Q/DQ nodes which stand to be fused with it."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of the model, by the shape of its weights."""

    name: str
    path: str
    in_channels: int
    """Of the whole input, all groups."""
    out_channels: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a profiler found."""

    queries: int
    """Recorded queries that the operators are summed over."""
    operators: list[Operator]
    stacks: Stacks
    convolutions: list[Convolution]
    quantized: bool
    """Whether the file is an int8 model: it holds quantized operators or Q/DQ nodes."""


class Profiler(Protocol):
    """What a file in this folder offers."""

    RUNTIMES: tuple[str, ...]

    def measure(
        self, path: Path, runtime: str, device: str, threads: int, inputs: np.ndarray, queries: int, folder: Path
    ) -> Measured: ...


def load(runtime: str) -> Profiler:
    """The profiler that serves a runtime.

    Raises
    ------
    ValueError
        If none does.
    """
    served: list[str] = []
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        profiler = cast("Profiler", importlib.import_module(f"{__name__}.{file.stem}"))
        if runtime in profiler.RUNTIMES:
            return profiler
        served += profiler.RUNTIMES
    raise ValueError(f"runtime {runtime!r} cannot be profiled; accepted: {', '.join(served)}")
