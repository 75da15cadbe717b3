"""One file a library that can say where the time of a query goes; it serves the runtimes that it names.

Such a file imports its library when it is told to, never at its top, and has

- `RUNTIMES`: names of the runtimes (tasks/runtimes) that execute with this library;
- `measure(path, runtime, device, threads, inputs, queries, folder, watch)`: run `WARMUP` queries, then `queries` under
the
  library's own profiler (these within `watch`, which sees what else the machine does), write `trace.json` (Chrome's
  trace format) into `folder`, and return `Measured`.

A profiler slows a query down: its figures are shares, not latencies.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

WARMUP = 5
"""Queries before those that are recorded."""
LEAST_QUERIES = 5
"""Queries that operators must be summed over for their shares to say anything: a stall in one of fewer is half of
them."""
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
    edge: bool = False
    """A conversion at the graph's own input or output, which no form of quantization avoids. False where the library
    does not tell what feeds an operator."""


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
    """Queries that the operators are summed over: the calmest quarter of the recorded ones where the library tells
    queries apart, else all."""
    operators: list[Operator]
    stacks: Stacks
    convolutions: list[Convolution]
    quantized: bool
    """Whether the file is an int8 model: it holds quantized operators or Q/DQ nodes."""
    dynamic: bool = False
    """Whether it finds the ranges of activations in every query (DynamicQuantizeLinear)."""
    normalisations: dict[str, str] = field(default_factory=dict)
    """Operators that are a BatchNormalization of their own (by name), and why each was not folded into a
    convolution."""
    overridable: int = 0
    """Weights that are inputs of the graph at the same time, so that a runtime takes none of them for a constant."""


Watching = AbstractContextManager[object]
"""What watches the machine while queries are recorded; it can be entered again and again."""
UNWATCHED: Watching = nullcontext()


class Profiler(Protocol):
    """What a file in this folder offers."""

    RUNTIMES: tuple[str, ...]

    def measure(
        self,
        path: Path,
        runtime: str,
        device: str,
        threads: int,
        inputs: np.ndarray,
        queries: int,
        folder: Path,
        watch: Watching = UNWATCHED,
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
