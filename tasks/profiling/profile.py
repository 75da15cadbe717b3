"""Profile: where the time of a query goes, by the runtime's own profiler, and why it is not less.

A folder holds operators.parquet, findings.parquet, stacks.folded (the format of flame graph tools: own time of a stack
in nanoseconds), trace.json (open it in chrome://tracing or ui.perfetto.dev), for PyTorch a TensorBoard log, and
profile.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tasks import machine, profilers, runtimes
from tasks.machine.causes import cause
from tasks.machine.certificate import FOREIGN_CPU, Watch
from tasks.machine.files import beside, replace
from tasks.machine.space import watched
from tasks.measure import clock
from tasks.profilers import LEAST_QUERIES
from tasks.profilers._kinds import kind
from tasks.profiling.diagnose import Case, Finding, diagnose

if TYPE_CHECKING:
    import numpy as np

QUERIES = 20
WARMUP_SECONDS = 0.5
LEAST_SECONDS = 0.5
"""Of timing: the kernel counts processor time in steps of 10 ms, and the load by others is told from it."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A profile: what was run, its operators (rows of operators.parquet) and its findings."""

    name: str
    runtime: str
    device: str
    provider: str
    batch_size: int
    threads: int
    queries: int
    """Queries that the operators are summed over (see `profilers.Measured`)."""
    latency_ms: float
    """Median of at least as many queries without the profiler, input and output in host memory."""
    operators_ms: float
    """Sum of the operators, a query, under the profiler."""
    split_ms: tuple[float, float, float, float] | None
    """H2D, enqueue, compute, D2H of a query, medians; on CUDA alone."""
    operators: list[dict[str, Any]]
    """Their shares are null where the queries are too few (see `enough`)."""
    stacks: dict[tuple[str, ...], float]
    findings: list[Finding]
    certificate: dict[str, Any] = field(default_factory=dict)
    """The machine while it was timed and profiled: see `tasks.machine.certificate.Watch.row`."""
    conditions: str | None = None
    """What was bad about them; None: nothing."""
    recorded: int = 0
    """Queries that were recorded; 0 in profiles of older versions, which did not say it."""

    @property
    def enough(self) -> bool:
        """Whether there were queries enough for shares of the operators to say anything."""
        return self.queries >= LEAST_QUERIES

    @property
    def trusted(self) -> bool:
        """Whether it may stand in a report."""
        return self.enough and self.conditions is None


def profile(
    path: Path,
    format: str,
    runtime: str,
    device: str,
    threads: int,
    inputs: np.ndarray,
    folder: Path,
    *,
    name: str = "",
    queries: int = QUERIES,
) -> Profile:
    """Profile a model file on `inputs` (one query) and leave the result in `folder`, whole or not at all.

    Raises
    ------
    ValueError
        If the runtime has no profiler, does not execute the format or is not available here.
    """
    adapter, profiler = runtimes.load(runtime), profilers.load(runtime)
    if format not in adapter.FORMATS:
        raise ValueError(f"runtime {runtime} executes {', '.join(adapter.FORMATS)}, not {format}")
    if (reason := adapter.unavailable(device)) is not None:
        raise ValueError(f"runtime {runtime}: {reason}")
    adapter.load_library(device)
    session, watch = _opened(adapter, path, device, inputs, threads), Watch(device, (os.getpid(),))
    stable, latency_ms, split = _timed(session, inputs, queries, watch)
    provider = session.provider
    session.close()
    with beside(folder) as scratch, watched(folder):
        made = scratch / "profile"
        made.mkdir()
        found = profiler.measure(path, runtime, device, threads, inputs, queries, made, watch)
        _, features = machine.cpu()
        case = Case(
            profile=found,
            runtime=runtime,
            device=device,
            threads=threads,
            cores=machine.cores(),
            cpu_features=features,
            split=split,
        )
        certificate = watch.row()
        result = Profile(
            name=name or path.name,
            runtime=runtime,
            device=device,
            provider=provider,
            batch_size=len(inputs),
            threads=threads,
            queries=found.queries,
            latency_ms=latency_ms,
            operators_ms=sum(one.total_ms for one in found.operators) / found.queries,
            split_ms=split,
            operators=_rows(found),
            stacks=found.stacks,
            findings=diagnose(case),
            certificate=certificate,
            conditions=_conditions(certificate, stable),
            recorded=queries,
        )
        _write(result, made)
        replace(made, folder)
    return result


def _conditions(certificate: dict[str, Any], stable: bool) -> str | None:
    """What was bad about the conditions, by the same limits as the benchmark's; None: nothing."""
    found = [] if stable else ["warm-up windows did not agree"]
    if certificate["foreign_cpu"] > FOREIGN_CPU:
        found.append(f"other processes used {certificate['foreign_cpu']:.0%} of the cores")
    if certificate["gpu_trouble"]:
        found.append(certificate["gpu_trouble"])
    return "; ".join(found) or None


def _opened(adapter: runtimes.Runtime, path: Path, device: str, inputs: np.ndarray, threads: int) -> runtimes.Session:
    """A session that has answered a first query."""
    try:
        session = adapter.open(path, device, len(inputs), threads)
    except Exception as error:
        # each library has its own
        raise ValueError(f"{path.name} cannot be opened: {cause(error)}") from error
    try:
        session.run(inputs)
    except Exception as error:
        # each library has its own
        shape = "x".join(map(str, inputs.shape))
        raise ValueError(
            f"{path.name} does not run on inputs of shape {shape} ({inputs.dtype}): {cause(error)}"
        ) from error
    return session


def _timed(
    session: runtimes.Session, inputs: np.ndarray, queries: int, watch: Watch
) -> tuple[bool, float, tuple[float, float, float, float] | None]:
    """(Whether warm-up became stable, median latency in ms, on CUDA the medians of the split)."""
    _, stable, _ = clock.warm_up(lambda: session.run(inputs), WARMUP_SECONDS)
    with watch:
        samples = clock.measure(lambda: session.run(inputs), LEAST_SECONDS, queries)
    latency_ms = median(samples.tolist()) / 1e6
    if session.split is None:
        return stable, latency_ms, None
    parts = zip(*(session.split(inputs) for _ in range(queries)), strict=True)
    h2d, enqueue, compute, d2h = (median(part) for part in parts)
    return stable, latency_ms, (h2d, enqueue, compute, d2h)


def _rows(found: profilers.Measured) -> list[dict[str, Any]]:
    """Rows of operators.parquet, those with the most time first. `mean_ms` is of a query; few queries have no
    shares."""
    total = sum(one.total_ms for one in found.operators) or 1.0
    enough = found.queries >= LEAST_QUERIES
    rows = [
        {
            "name": one.name,
            "path": one.path,
            "type": one.type,
            "kind": kind(one.type),
            "calls": one.calls,
            "total_ms": one.total_ms,
            "mean_ms": one.total_ms / found.queries,
            "share": one.total_ms / total if enough else None,
            "precision": one.precision,
            "provider": one.provider,
            "unfused": one.unfused,
        }
        for one in found.operators
    ]
    return sorted(rows, key=lambda row: -row["total_ms"])


def _write(result: Profile, folder: Path) -> None:
    import polars as pl

    pl.DataFrame(result.operators, infer_schema_length=None).write_parquet(folder / "operators.parquet")
    text = {"severity": pl.String, "what": pl.String, "evidence": pl.String, "remedy": pl.String, "share": pl.Float64}
    rows = [asdict(finding) for finding in result.findings]
    pl.DataFrame(rows, schema={**text, "nodes": pl.List(pl.String)}).write_parquet(folder / "findings.parquet")
    stacks = ((";".join(part.replace(";", ",") for part in stack), ms) for stack, ms in result.stacks.items())
    (folder / "stacks.folded").write_text("".join(f"{stack} {round(ms * 1e6)}\n" for stack, ms in stacks))
    told = {
        key: getattr(result, key) for key in result.__annotations__ if key not in ("operators", "stacks", "findings")
    }
    (folder / "profile.json").write_text(json.dumps(told, indent=1))


def read(folder: Path) -> Profile:
    """A profile that `profile` left in a folder."""
    import polars as pl

    stacks = {}
    for line in (folder / "stacks.folded").read_text().splitlines():
        stack, _, nanoseconds = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] = int(nanoseconds) / 1e6
    findings = [
        Finding(**row | {"nodes": tuple(row["nodes"])})
        for row in pl.read_parquet(folder / "findings.parquet").to_dicts()
    ]
    told = json.loads((folder / "profile.json").read_text())
    told["split_ms"] = tuple(told["split_ms"]) if told["split_ms"] else None
    operators = pl.read_parquet(folder / "operators.parquet").to_dicts()
    return Profile(**told, operators=operators, stacks=stacks, findings=findings)
