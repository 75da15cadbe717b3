"""Rows of the tables, made of the visits to candidates (tasks/candidates/rounds.py)."""

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

# Parts of a query's time on a GPU, as the table `gpu_times` names them.
PARTS = ("latency", "enqueue", "h2d", "compute", "d2h")


def tables(
    work: Work, candidates: list[Candidate], settings: Benchmark, unmeasured: list[dict[str, Any]]
) -> dict[str, Artifact]:
    """Return a fragment of every table that is made of visits, by the table's name.

    `unmeasured` has rows of `benchmarks` for what could not be measured at all.
    """
    latency = [candidate for candidate in candidates if candidate.experiment == "latency"]
    throughput = [candidate for candidate in candidates if candidate.experiment == "throughput"]
    sizes = settings.batch_sizes
    benchmarks = [_benchmark(candidate, size, settings) for candidate in latency for size in sizes]
    throughputs = [_throughput(candidate, size) for candidate in throughput for size in sizes]
    if throughput:
        throughputs = [row | {"slots": 1} for row in unmeasured] + throughputs
    memory = [row for candidate in latency for row in _memory(candidate)]
    gpu_times = [row for candidate in latency for row in _gpu_times(candidate)]
    certificates = [row for candidate in candidates for row in _certificates(candidate)]
    return {
        "benchmarks": work.rows("benchmarks", unmeasured + benchmarks),
        "throughputs": work.rows("throughputs", throughputs),
        "memory": work.rows("memory", memory),
        "gpu_times": work.rows("gpu_times", gpu_times),
        "certificates": work.rows("certificates", certificates),
        "latencies": store_frames(work, "latencies", _samples(latency, "latencies", "latency_ms")),
        "completions": store_frames(work, "completions", _samples(throughput, "completions", "completed_ms")),
    }


def _threads(candidate: Candidate) -> int | None:
    """Return how many threads a candidate has on a CPU. On a GPU their number says nothing, and it is None."""
    return candidate.spec.threads if candidate.device == "cpu" else None


def _common_columns(candidate: Candidate, size: int) -> dict[str, Any]:
    """Return the columns that `benchmarks` and `throughputs` have in common."""
    visits = candidate.visits.get(size, [])
    queries = sum(len(visit.samples) for visit in visits)
    row: dict[str, Any] = candidate.columns | {
        "batch_size": size,
        "rounds": len(visits),
        "provider": candidate.provider,
        "queries": queries,
        "threads": _threads(candidate),
    }
    error = candidate.error or candidate.errors.get(size)
    if error is not None:
        return row | {"status": "failed", "error": error}
    row |= {"warmup_seconds": sum(visit.answer["warmup_seconds"] for visit in visits), "status": "ok", "error": None}
    energies_j = [visit.answer["certificate"]["energy_j"] for visit in visits]
    if None not in energies_j:
        row["energy_per_image_mj"] = 1000 * sum(energies_j) / (queries * size)
    return row


def _benchmark(candidate: Candidate, size: int, settings: Benchmark) -> dict[str, Any]:
    """Return the row of `benchmarks` for one candidate at one batch size."""
    row = _common_columns(candidate, size)
    if row["status"] == "failed":
        return row
    visits = candidate.visits.get(size, [])
    latency = intervals.summarise(np.concatenate([visit.samples for visit in visits]))
    assert latency["latency_mean_ms"] is not None
    round_medians = [intervals.percentile(visit.samples, 50) / 1e6 for visit in visits]
    process_means = _process_means(visits)
    return (
        row
        | latency
        | {
            "images_per_second": 1000 * size / latency["latency_mean_ms"],
            "round_turns": [len(visit.turns) for visit in visits],
            "turn_medians_ms": [median for visit in visits for median in visit.turn_medians_ms],
            "processes": fresh_processes(settings),
            "process_mean_ms": statistics.fmean(process_means),
            "process_std_ms": statistics.stdev(process_means) if len(process_means) > 1 else None,
            "open_seconds": candidate.open_seconds,
            "first_query_seconds": max(visit.answer["first_query_seconds"] for visit in visits),
            "conditions": conditions(visits, round_medians),
        }
    )


def _process_means(visits: list[Visit]) -> list[float]:
    """Return the mean latency in each process of a candidate, in milliseconds."""
    samples_of_process: dict[int, list[np.ndarray]] = {}
    for visit in visits:
        samples_of_process.setdefault(visit.process, []).append(visit.samples)
    return [float(np.concatenate(samples).mean()) / 1e6 for samples in samples_of_process.values()]


def _throughput(candidate: Candidate, size: int) -> dict[str, Any]:
    """Return the row of `throughputs` for one candidate at one batch size."""
    row = _common_columns(candidate, size)
    row["slots"] = candidate.spec.slots
    if row["status"] == "failed":
        return row
    visits = candidate.visits.get(size, [])
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
    """Yield one row of `memory` per batch size.

    It is the memory of the first round, in which a fresh process measures the batch sizes in ascending order.
    """
    for size, visits in candidate.visits.items():
        answer = visits[0].answer
        peak = answer["rss_peak_bytes"]
        yield candidate.columns | {
            "batch_size": size,
            "rss_peak_bytes": peak,
            "rss_baseline_bytes": candidate.baseline,
            "ram_usage_bytes": peak - candidate.baseline,
            "vram_peak_bytes": answer["vram_peak_bytes"],
            "vram_context_bytes": answer["vram_context_bytes"],
            "vram_source": answer["vram_source"],
        }


def _gpu_times(candidate: Candidate) -> Iterator[dict[str, Any]]:
    """Yield one row of `gpu_times` per batch size and part of a query."""
    for size, visits in candidate.visits.items():
        times = [visit.gpu for visit in visits if visit.gpu is not None]
        if not times:
            continue
        h2d, enqueue, compute, d2h = np.concatenate(times).T
        host_seconds = sum(visit.answer["gpu_seconds"] for visit in visits)
        for part, ms in zip(PARTS, (h2d + compute + d2h, enqueue, h2d, compute, d2h), strict=True):
            yield (
                candidate.columns
                | intervals.spread(ms)
                | {
                    "batch_size": size,
                    "part": part,
                    "queries": len(ms),
                    "total_ms": float(ms.sum()),
                    "host_seconds": host_seconds,
                }
            )


def _certificates(candidate: Candidate) -> Iterator[dict[str, Any]]:
    """Yield one row of `certificates` per visit."""
    libraries = json.dumps(machine.versions())
    for size, visits in candidate.visits.items():
        for number, visit in enumerate(visits, 1):
            yield (
                candidate.columns
                | visit.answer["certificate"]
                | {
                    "batch_size": size,
                    "experiment": candidate.experiment,
                    "round": number,
                    "process": visit.process,
                    "provider": candidate.provider,
                    "threads": _threads(candidate),
                    "libraries": libraries,
                    "trouble": visit.trouble,
                }
            )


def _samples(candidates: list[Candidate], table: str, column: str) -> Iterator[pl.DataFrame]:
    """Yield the samples of one visit after the other as rows of a table, in milliseconds in the column `column`."""
    for candidate in candidates:
        for size, visits in candidate.visits.items():
            for number, visit in enumerate(visits, 1):
                constant = candidate.columns | {"batch_size": size, "round": number}
                query = np.arange(len(visit.samples))
                yield frame(table, constant, {"query": query, column: visit.samples / 1e6})


def frame(table: str, constant: Mapping[str, Any], arrays: Mapping[str, np.ndarray | list[str | None]]) -> pl.DataFrame:
    """Return rows of a table.

    Parameters
    ----------
    constant : the columns that have the same value in all rows
    arrays : the other columns, with one value per row
    """
    import polars as pl

    from tasks.tables import frames

    schema = frames.frame(table, []).schema
    rows = pl.DataFrame(dict(arrays)).with_columns(pl.lit(value).alias(key) for key, value in constant.items())
    return rows.select(pl.col(key).cast(dtype) for key, dtype in schema.items())


def store_frames(work: Work, table: str, frames: Iterable[pl.DataFrame]) -> Artifact:
    """Store a fragment of a table of many rows, with one frame in memory at a time."""
    import polars as pl

    with work.store.temporary() as folder:
        parts = []
        for number, rows in enumerate(frames):
            parts.append(folder / f"part-{number:06}.parquet")
            rows.write_parquet(parts[-1])
        if not parts:
            return work.rows(table, [])
        path = folder / f"{table}.parquet"
        pl.scan_parquet(parts).sink_parquet(path, compression="zstd")
        return work.store.put(path, "parquet")
