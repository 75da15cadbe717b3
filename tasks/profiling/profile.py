"""Profile: the runtime's own profiler tells where the time of a query goes, and rules tell why it is not less.

A profile is a folder with operators.parquet, findings.parquet, stacks.folded (the format of flame graph tools: each
stack with its own time in nanoseconds), trace.json (for chrome://tracing or ui.perfetto.dev), profile.json, and for
PyTorch a TensorBoard log.
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

# How many queries are recorded where nobody says how many.
QUERIES = 20
WARMUP_SECONDS = 0.5
LEAST_SECONDS = 0.5
"""Timing lasts at least this long. The kernel counts processor time in steps of 10 ms, and the load by other processes
is computed from it."""
Split = tuple[float, float, float, float]
"""Milliseconds per query of host-to-device copy (H2D), enqueue, compute and device-to-host copy (D2H)."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A profile: what was run, its operators and its findings."""

    name: str
    runtime: str
    device: str
    provider: str
    batch_size: int
    threads: int
    queries: int
    """How many queries the operators are summed over (see `profilers.Measured`)."""
    latency_ms: float
    """Median latency without the profiler, of at least as many queries, with input and output in host memory."""
    operators_ms: float
    """Total time of all operators in one query, in milliseconds, as the profiler measured it."""
    split_ms: Split | None
    """Median of each part of a query. None on a CPU."""
    operators: list[dict[str, Any]]
    """Rows of operators.parquet. Their shares are null where there are too few queries (see `enough`)."""
    stacks: dict[tuple[str, ...], float]
    """By stack: its own time, in milliseconds per query."""
    findings: list[Finding]
    certificate: dict[str, Any] = field(default_factory=dict)
    """The machine's state while queries were timed and profiled: see `tasks.machine.certificate.Watch.row`."""
    conditions: str | None = None
    """What was bad about the machine's state meanwhile. None means nothing."""
    recorded: int = 0
    """How many queries were recorded. It is 0 in profiles by older versions, which did not store it."""

    @property
    def enough(self) -> bool:
        """Whether there were enough queries for the shares of the operators to say anything."""
        return self.queries >= LEAST_QUERIES

    @property
    def trusted(self) -> bool:
        """Whether a report may show it."""
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
    """Profile a model file on `inputs`, which are one query, and write the profile to `folder`, whole or not at all.

    Raises
    ------
    ValueError
        If the runtime has no profiler, does not execute the format, or cannot run on this machine.
    """
    profiler = profilers.load(runtime)
    adapter = _adapter(runtime, format, device)
    adapter.load_library(device)
    session = _opened(adapter, path, device, inputs, threads)
    watch = Watch(device, (os.getpid(),))
    stable, latency_ms, split_ms = _timed(session, inputs, queries, watch)
    provider = session.provider
    session.close()
    with beside(folder) as scratch, watched(folder):
        new_folder = scratch / "profile"
        new_folder.mkdir()
        measured = profiler.measure(
            profilers.Request(
                path=path,
                runtime=runtime,
                device=device,
                threads=threads,
                inputs=inputs,
                queries=queries,
                folder=new_folder,
                watch=watch,
            )
        )
        certificate = watch.row()
        result = Profile(
            name=name or path.name,
            runtime=runtime,
            device=device,
            provider=provider,
            batch_size=len(inputs),
            threads=threads,
            queries=measured.queries,
            latency_ms=latency_ms,
            operators_ms=sum(operator.total_ms for operator in measured.operators) / measured.queries,
            split_ms=split_ms,
            operators=_rows(measured),
            stacks=measured.stacks,
            findings=diagnose(
                Case(
                    profile=measured,
                    runtime=runtime,
                    device=device,
                    threads=threads,
                    cores=machine.cores(),
                    cpu_features=machine.cpu()[1],
                    split=split_ms,
                    recorded=queries,
                )
            ),
            certificate=certificate,
            conditions=_conditions(certificate, stable),
            recorded=queries,
        )
        _write(result, new_folder)
        replace(new_folder, folder)
    return result


def _adapter(runtime: str, format: str, device: str) -> runtimes.Runtime:
    """Return a runtime that executes the format on the device. Raise ValueError where it does not."""
    adapter = runtimes.load(runtime)
    if format not in adapter.FORMATS:
        raise ValueError(f"runtime {runtime} executes {', '.join(adapter.FORMATS)}, not {format}")
    reason = adapter.unavailable(device)
    if reason is not None:
        raise ValueError(f"runtime {runtime}: {reason}")
    return adapter


def _conditions(certificate: dict[str, Any], stable: bool) -> str | None:
    """Return what was bad about the machine's state, by the benchmark's limits. None means nothing."""
    reasons = [] if stable else ["warm-up windows did not agree"]
    if certificate["foreign_cpu"] > FOREIGN_CPU:
        reasons.append(f"other processes used {certificate['foreign_cpu']:.0%} of the cores")
    if certificate["gpu_trouble"]:
        reasons.append(certificate["gpu_trouble"])
    return "; ".join(reasons) or None


def _opened(adapter: runtimes.Runtime, path: Path, device: str, inputs: np.ndarray, threads: int) -> runtimes.Session:
    """Return a session that has answered a first query.

    Raises
    ------
    ValueError
        If the file cannot be opened, or does not run on these inputs.
    """
    try:
        session = adapter.open(path, device, len(inputs), threads)
    except Exception as error:
        # Each library raises exceptions of its own.
        raise ValueError(f"{path.name} cannot be opened: {cause(error)}") from error
    try:
        session.run(inputs)
    except Exception as error:
        # Each library raises exceptions of its own.
        shape = "x".join(map(str, inputs.shape))
        raise ValueError(
            f"{path.name} does not run on inputs of shape {shape} ({inputs.dtype}): {cause(error)}"
        ) from error
    return session


def _timed(
    session: runtimes.Session, inputs: np.ndarray, queries: int, watch: Watch
) -> tuple[bool, float, Split | None]:
    """Time queries without the profiler.

    Returns
    -------
    stable : whether warm-up became stable
    latency_ms : median latency
    split_ms : the median of each part of a query; None on a CPU
    """
    _, stable, _ = clock.warm_up(lambda: session.run(inputs), WARMUP_SECONDS)
    with watch:
        samples = clock.measure(lambda: session.run(inputs), LEAST_SECONDS, queries)
    latency_ms = median(samples.tolist()) / 1e6
    if session.split is None:
        return stable, latency_ms, None
    parts = zip(*(session.split(inputs) for _ in range(queries)), strict=True)
    h2d, enqueue, compute, d2h = (median(part) for part in parts)
    return stable, latency_ms, (h2d, enqueue, compute, d2h)


def _rows(measured: profilers.Measured) -> list[dict[str, Any]]:
    """Return the rows of operators.parquet, those with the most time first.

    `mean_ms` is an operator's time per query. Its share is null where there are too few queries.
    """
    total_ms = sum(operator.total_ms for operator in measured.operators) or 1.0
    enough = measured.queries >= LEAST_QUERIES
    rows = [
        {
            "name": operator.name,
            "path": operator.path,
            "type": operator.type,
            "kind": kind(operator.type),
            "calls": operator.calls,
            "total_ms": operator.total_ms,
            "mean_ms": operator.total_ms / measured.queries,
            "share": operator.total_ms / total_ms if enough else None,
            "precision": operator.precision,
            "provider": operator.provider,
            "unfused": operator.unfused,
        }
        for operator in measured.operators
    ]
    return sorted(rows, key=lambda row: -row["total_ms"])


def _write(result: Profile, folder: Path) -> None:
    """Write a profile's files, other than those of the profiler, to a folder."""
    import polars as pl

    pl.DataFrame(result.operators, infer_schema_length=None).write_parquet(folder / "operators.parquet")
    schema = {"severity": pl.String, "what": pl.String, "evidence": pl.String, "remedy": pl.String, "share": pl.Float64}
    rows = [asdict(finding) for finding in result.findings]
    pl.DataFrame(rows, schema={**schema, "nodes": pl.List(pl.String)}).write_parquet(folder / "findings.parquet")
    lines = []
    for stack, ms in result.stacks.items():
        # A semicolon separates the parts of a stack.
        parts = ";".join(part.replace(";", ",") for part in stack)
        lines.append(f"{parts} {round(ms * 1e6)}\n")
    (folder / "stacks.folded").write_text("".join(lines))
    own_files = ("operators", "stacks", "findings")
    rest = {key: getattr(result, key) for key in result.__annotations__ if key not in own_files}
    (folder / "profile.json").write_text(json.dumps(rest, indent=1))


def read(folder: Path) -> Profile:
    """Read the profile that `profile` wrote to a folder."""
    import polars as pl

    stacks = {}
    for line in (folder / "stacks.folded").read_text().splitlines():
        stack, _, nanoseconds = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] = int(nanoseconds) / 1e6
    findings = [
        Finding(**row | {"nodes": tuple(row["nodes"])})
        for row in pl.read_parquet(folder / "findings.parquet").to_dicts()
    ]
    fields = json.loads((folder / "profile.json").read_text())
    fields["split_ms"] = tuple(fields["split_ms"]) if fields["split_ms"] else None
    operators = pl.read_parquet(folder / "operators.parquet").to_dicts()
    return Profile(**fields, operators=operators, stacks=stacks, findings=findings)
