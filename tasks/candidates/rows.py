"""Rows of the tables from what candidates' visits measured (tasks/candidates/rounds.py)."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import machine
from tasks.candidates.candidate import conditions, fresh_processes
from tasks.measure import intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import polars as pl

    from tasks.caching.work import Work
    from tasks.candidates.candidate import Candidate, Visit
    from tasks.records import Artifact, Benchmark

PARTS = ("latency", "enqueue", "h2d", "compute", "d2h")


def tables(
    work: Work, candidates: list[Candidate], settings: Benchmark, unmeasured: list[dict[str, Any]]
) -> dict[str, Artifact]:
    """Fragments of every table that comes from visits. `unmeasured`: rows of `benchmarks` for what could not be
    measured."""
    latency = [candidate for candidate in candidates if candidate.experiment == "latency"]
    throughput = [candidate for candidate in candidates if candidate.experiment == "throughput"]
    skipped = [row | {"slots": 1} for row in unmeasured]
    sizes = settings.batch_sizes
    return {
        "benchmarks": work.rows(
            "benchmarks", unmeasured + [_benchmark(j, n, settings) for j in latency for n in sizes]
        ),
        "throughputs": work.rows(
            "throughputs", (skipped if throughput else []) + [_throughput(j, n) for j in throughput for n in sizes]
        ),
        "memory": work.rows("memory", [row for candidate in latency for row in _memory(candidate)]),
        "gpu_times": work.rows("gpu_times", [row for candidate in latency for row in _gpu_times(candidate)]),
        "certificates": work.rows(
            "certificates", [row for candidate in candidates for row in _certificates(candidate)]
        ),
        "latencies": stored(work, "latencies", _samples(latency, "latencies", "latency_ms")),
        "completions": stored(work, "completions", _samples(throughput, "completions", "completed_ms")),
    }


def _base(candidate: Candidate, size: int) -> tuple[dict[str, Any], list[Visit], str | None]:
    """(Columns that latency and throughput share, visits, error)."""
    visits, error = candidate.visits.get(size, []), candidate.error or candidate.errors.get(size)
    row: dict[str, Any] = candidate.which | {"batch_size": size, "rounds": len(visits), "provider": candidate.provider}
    row["queries"] = sum(len(visit.samples) for visit in visits)
    row["threads"] = candidate.spec.threads if candidate.device == "cpu" else None
    if error is not None:
        return row | {"status": "failed", "error": error}, visits, error
    row |= {"warmup_seconds": sum(visit.answer["warmup_seconds"] for visit in visits), "status": "ok", "error": None}
    energies = [visit.answer["certificate"]["energy_j"] for visit in visits]
    if None not in energies:
        row["energy_per_image_mj"] = 1000 * sum(energies) / (row["queries"] * size)
    return row, visits, None


def _benchmark(candidate: Candidate, size: int, settings: Benchmark) -> dict[str, Any]:
    row, visits, error = _base(candidate, size)
    if error is not None:
        return row
    latency = intervals.summarise(np.concatenate([visit.samples for visit in visits]))
    assert latency["latency_mean_ms"] is not None
    medians = [intervals.percentile(visit.samples, 50) / 1e6 for visit in visits]
    by_process: dict[int, list[np.ndarray]] = {}
    for visit in visits:
        by_process.setdefault(visit.process, []).append(visit.samples)
    means = [float(np.concatenate(samples).mean()) / 1e6 for samples in by_process.values()]
    return (
        row
        | latency
        | {
            "images_per_second": 1000 * size / latency["latency_mean_ms"],
            "round_turns": [len(visit.turns) for visit in visits],
            "turn_medians_ms": [median for visit in visits for median in visit.turn_medians_ms],
            "processes": fresh_processes(settings),
            "process_mean_ms": statistics.fmean(means),
            "process_std_ms": statistics.stdev(means) if len(means) > 1 else None,
            "open_seconds": candidate.open_seconds,
            "first_query_seconds": max(visit.answer["first_query_seconds"] for visit in visits),
            "conditions": conditions(visits, medians),
        }
    )


def _throughput(candidate: Candidate, size: int) -> dict[str, Any]:
    row, visits, error = _base(candidate, size)
    row["slots"] = candidate.spec.slots
    if error is not None:
        return row
    rates = [size * visit.queries_per_second for visit in visits]
    mean, low, high = intervals.mean_interval(rates)
    return row | {
        "images_per_second": mean,
        "images_per_second_std": statistics.stdev(rates) if len(rates) > 1 else None,
        "images_per_second_low": None if low is None else max(low, 0.0),
        "images_per_second_high": high,
        "round_images_per_second": rates,
        "conditions": conditions(visits, rates),
    }


def _memory(candidate: Candidate) -> Iterator[dict[str, Any]]:
    """Memory is that of the first round, in which sizes ascend in a fresh process."""
    for size, visits in candidate.visits.items():
        answer = visits[0].answer
        peak = answer["rss_peak_bytes"]
        kept = {key: answer[key] for key in ("vram_peak_bytes", "vram_context_bytes", "vram_source")}
        usage = {
            "rss_peak_bytes": peak,
            "rss_baseline_bytes": candidate.baseline,
            "ram_usage_bytes": peak - candidate.baseline,
        }
        yield candidate.which | {"batch_size": size} | usage | kept


def _gpu_times(candidate: Candidate) -> Iterator[dict[str, Any]]:
    for size, visits in candidate.visits.items():
        found = [visit.gpu for visit in visits if visit.gpu is not None]
        if not found:
            continue
        h2d, enqueue, compute, d2h = np.concatenate(found).T
        host = sum(visit.answer["gpu_seconds"] for visit in visits)
        for part, ms in zip(PARTS, (h2d + compute + d2h, enqueue, h2d, compute, d2h), strict=True):
            columns = intervals.spread(ms)
            yield (
                candidate.which
                | columns
                | {
                    "batch_size": size,
                    "part": part,
                    "queries": len(ms),
                    "total_ms": float(ms.sum()),
                    "host_seconds": host,
                }
            )


def _certificates(candidate: Candidate) -> Iterator[dict[str, Any]]:
    libraries = json.dumps(machine.versions())
    for size, visits in candidate.visits.items():
        for number, visit in enumerate(visits, 1):
            yield (
                candidate.which
                | visit.answer["certificate"]
                | {
                    "batch_size": size,
                    "experiment": candidate.experiment,
                    "round": number,
                    "process": visit.process,
                    "provider": candidate.provider,
                    "threads": candidate.spec.threads if candidate.device == "cpu" else None,
                    "libraries": libraries,
                    "trouble": visit.trouble,
                }
            )


def _samples(candidates: list[Candidate], table: str, column: str) -> Iterator[pl.DataFrame]:
    for candidate in candidates:
        for size, visits in candidate.visits.items():
            for number, visit in enumerate(visits, 1):
                constant = candidate.which | {"batch_size": size, "round": number}
                query = np.arange(len(visit.samples))
                yield frame(table, constant, {"query": query, column: visit.samples / 1e6})


def frame(table: str, constant: Mapping[str, Any], arrays: Mapping[str, np.ndarray | list[str | None]]) -> pl.DataFrame:
    """Rows of a table from one array a column, and values that are the same in all rows."""
    import polars as pl

    from tasks.tables import frames

    schema = frames.frame(table, []).schema
    frame = pl.DataFrame(dict(arrays)).with_columns(pl.lit(value).alias(key) for key, value in constant.items())
    return frame.select(pl.col(key).cast(dtype) for key, dtype in schema.items())


def stored(work: Work, table: str, frames: Iterable[pl.DataFrame]) -> Artifact:
    """Store a table of many rows as `work.rows` does, a frame in memory at a time."""
    import polars as pl

    with work.store.temporary() as folder:
        parts = []
        for number, frame in enumerate(frames):
            parts.append(folder / f"part-{number:06}.parquet")
            frame.write_parquet(parts[-1])
        if not parts:
            return work.rows(table, [])
        path = folder / f"{table}.parquet"
        pl.scan_parquet(parts).sink_parquet(path, compression="zstd")
        return work.store.put(path, "parquet")
