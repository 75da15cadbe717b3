"""Profilers: one file per library that can say where the time of a query goes.

A profiler's file never imports its library at the top, only inside its functions. It has

- `RUNTIMES`: names of the runtimes (tasks/runtimes) that execute with this library;
- `measure(request)`: do what a `Request` says, and return `Measured`. It runs `WARMUP` queries, records further queries
  with the library's own profiler, and writes `trace.json` (Chrome's trace format) into the request's folder.

A profiler slows queries down. So its figures count as shares of the time, not as latencies.
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
"""How many queries run before those that are recorded."""
LEAST_QUERIES = 5
"""Operators must be summed over at least this many queries for their shares to say anything. Among fewer, a stall in
one query could be half of the time."""
Stacks = dict[tuple[str, ...], float]
"""By stack (path of the module, then operators, outermost first): its own time, in milliseconds per query. The stacks
are in the order of execution."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be profiled, and how."""

    path: Path
    """The model file."""
    runtime: str
    device: str
    threads: int
    """Threads on a CPU."""
    inputs: np.ndarray
    """One query: the batch of images that the model is run on."""
    queries: int
    """How many queries are recorded."""
    folder: Path
    """Where the profiler leaves its files."""
    watch: AbstractContextManager[object] = field(default_factory=nullcontext)
    """What watches the machine. The recorded queries run within it; it can be entered several times."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator as the library executed it, with all its calls summed up."""

    name: str
    """Its name in the library. Findings call it by this name."""
    path: str
    """The model's module that it belongs to, such as "layer1/0/conv1". Empty where the file does not tell."""
    type: str
    calls: int
    """How often it was called, in all queries that are summed up (`Measured.queries`)."""
    total_ms: float
    """Time of these calls together, in milliseconds: by the host's clock on a CPU, by the device's on a GPU."""
    precision: str | None
    """The type that it computes in: fp32, fp16, bf16 or int8. None where the library does not tell."""
    provider: str
    """Its execution provider, or the implementation that the library chose."""
    unfused: bool = False
    """Whether it computes in floating point between quantize-dequantize (Q/DQ) nodes that should be fused with it."""
    edge: bool = False
    """Whether it is a conversion at the graph's own input or output, which no form of quantization avoids. False where
    the library does not tell what feeds an operator."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of the model, by the shape of its weights."""

    name: str
    path: str
    in_channels: int
    """Channels of the whole input, of all groups together."""
    out_channels: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a profiler measured."""

    queries: int
    """How many queries the operators are summed over: the fastest quarter of the recorded ones where the library tells
    queries apart, all of them where it does not."""
    operators: list[Operator]
    stacks: Stacks
    convolutions: list[Convolution]
    quantized: bool
    """Whether the file is an int8 model: it has quantized operators or Q/DQ nodes."""
    dynamic: bool = False
    """Whether the ranges of activations are computed in every query (DynamicQuantizeLinear)."""
    normalisations: dict[str, str] = field(default_factory=dict)
    """By the name of each operator that is a BatchNormalization: why it was not folded into a convolution."""
    overridable: int = 0
    """How many weights are inputs of the graph as well, so that a runtime cannot treat them as constants."""


class Profiler(Protocol):
    """What a profiler's file has; see the module's docstring."""

    RUNTIMES: tuple[str, ...]

    def measure(self, request: Request) -> Measured: ...


def load(runtime: str) -> Profiler:
    """Return the profiler for a runtime.

    Raises
    ------
    ValueError
        If no profiler serves this runtime.
    """
    served: list[str] = []
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        profiler = cast("Profiler", importlib.import_module(f"{__name__}.{file.stem}"))
        if runtime in profiler.RUNTIMES:
            return profiler
        served += profiler.RUNTIMES
    raise ValueError(f"runtime {runtime!r} cannot be profiled; accepted: {', '.join(served)}")
