"""Benchmark: latency, memory and prediction quality of every deployable form, in every runtime, on every device.

What is measured is in tasks/measure.py, how candidates are visited in tasks/rounds.py; here are the rows that result.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import machine, measure, metrics, runtimes
from tasks.caching import stage
from tasks.candidate import Spec
from tasks.records import Measured
from tasks.rounds import Job, conditions, locked, run

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import polars as pl

    from tasks.records import Artifact, Benchmark, Prepared, Variant
    from tasks.work import Work

TEST = 2  # in Prepared.splits


def benchmark(work: Work, data: Prepared, variants: tuple[Variant, ...], settings: Benchmark) -> Measured:
    """Measure every variant marked for it in every asked runtime that takes its format, on every asked device.

    Returns
    -------
    Measured
        Fragments of latencies, benchmarks, memory, evaluations, predictions and environments. What fails, and what
        cannot run here, is a row of `benchmarks` with the reason; the others go on.
    """
    folder = work.scratch / "candidates"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = np.flatnonzero(np.load(work.store.get(data.splits)) == TEST)
    np.save(folder / "rows.npy", rows)
    jobs, unmeasured = _plan(work, data, variants, settings, folder)
    with locked({"cpu", *(job.device for job in jobs)}, work.log):
        environment = machine.environment()
        run(work, jobs, settings, folder)
    labels = np.load(work.store.get(data.labels))[rows]
    evaluations = list(_evaluations(work.log, jobs, labels, {v.name: v.parent for v in variants}))
    benchmarks = [_benchmark_row(job, size, settings) for job in jobs for size in settings.batch_sizes]
    return Measured(
        tables={
            "environments": work.rows("environments", [environment]),
            "benchmarks": work.rows("benchmarks", unmeasured + benchmarks),
            "memory": work.rows("memory", [job.which | row for job in jobs for row in _memory_rows(job)]),
            "evaluations": work.rows("evaluations", evaluations),
            "latencies": _stored(work, "latencies", _latencies(jobs)),
            "predictions": _stored(work, "predictions", _predictions(jobs, rows, labels)),
        }
    )


def _plan(
    work: Work, data: Prepared, variants: tuple[Variant, ...], settings: Benchmark, folder: Path
) -> tuple[list[Job], list[dict[str, object]]]:
    """(What to measure, rows of what cannot be measured)."""
    jobs: list[Job] = []
    rows: list[dict[str, object]] = []
    devices, images = machine.devices(settings.devices), work.store.get(data.images)

    def row(variant: Variant, runtime: str, device: str, status: str, error: str | None) -> None:
        which = {"variant": variant.name, "runtime": runtime, "device": device, "status": status, "error": error}
        rows.extend(which | {"batch_size": size, "rounds": 0, "queries": 0} for size in settings.batch_sizes)

    for variant in variants:
        takers = [name for name in settings.runtimes if variant.format in runtimes.load(name).FORMATS]
        if variant.artifact is None:
            if takers:
                row(variant, takers[0], devices[0], variant.status, variant.error)
            continue
        if not variant.benchmark:
            continue
        if not takers:
            work.log.warning("%s: no runtime of the study takes %s", variant.name, variant.format)
        for runtime, device in ((runtime, device) for runtime in takers for device in devices):
            reason = runtimes.load(runtime).unavailable(device)
            if reason:
                row(variant, runtime, device, "skipped", reason)
                continue
            spec = Spec(
                runtime=runtime,
                path=str(work.store.get(variant.artifact)),
                device=device,
                threads=settings.threads or machine.cores(),
                batch_sizes=settings.batch_sizes,
                evaluation_batch=settings.evaluation_batch,
                warmup_seconds=settings.warmup_seconds,
                min_seconds=settings.min_seconds,
                min_queries=settings.min_queries,
                images=str(images),
                rows=str(folder / "rows.npy"),
                mean=data.mean,
                std=data.std,
            )
            jobs.append(Job(variant, runtime, device, spec, f"{len(jobs):03}"))
    return jobs, rows


def _benchmark_row(job: Job, size: int, settings: Benchmark) -> dict[str, object]:
    visits, error = job.visits.get(size, []), job.error or job.errors.get(size)
    queries = sum(len(visit.samples) for visit in visits)
    row = job.which | {"batch_size": size, "rounds": len(visits), "queries": queries, "provider": job.provider}
    row["threads"] = job.spec.threads if job.device == "cpu" else None
    if error is not None:
        return row | {"status": "failed", "error": error}
    latency = measure.summarise(np.concatenate([visit.samples for visit in visits]))
    assert latency["latency_mean_ms"] is not None
    return row | latency | {
        "images_per_second": 1000 * size / latency["latency_mean_ms"],
        "round_medians_ms": [measure.percentile(visit.samples, 50) / 1e6 for visit in visits],
        "warmup_seconds": sum(visit.warmup_seconds for visit in visits),
        "conditions": conditions(visits),
        "status": "ok",
        "error": None,
    }  # fmt: skip


def _memory_rows(job: Job) -> Iterator[dict[str, object]]:
    for size, measured in job.memory.items():
        peak = measured["rss_peak_bytes"]
        assert peak is not None
        usage = {"rss_baseline_bytes": job.baseline, "ram_usage_bytes": peak - job.baseline}
        yield {"batch_size": size, **measured, **usage}


def _evaluations(
    log: logging.Logger, jobs: list[Job], labels: np.ndarray, parents: Mapping[str, str | None]
) -> Iterator[dict[str, object]]:
    evaluated = [job for job in jobs if job.logits is not None]
    for job in evaluated:
        assert job.logits is not None
        predicted = metrics.predictions(job.logits)
        parent = _ancestor(job, evaluated, parents)
        top1, macro = metrics.top1(job.logits, labels), metrics.macro_f1(labels, predicted)
        top1_low, top1_high = metrics.wilson(top1, len(labels))
        macro_low, macro_high = metrics.macro_f1_interval(labels, predicted)
        yield job.which | {
            "parent": parent.variant.name if parent else None,
            "images": len(labels),
            "top1": top1,
            "top1_low": top1_low,
            "top1_high": top1_high,
            "top5": metrics.top5(job.logits, labels),
            "macro_f1": macro,
            "macro_f1_low": macro_low,
            "macro_f1_high": macro_high,
            "agreement": metrics.agreement(predicted, metrics.predictions(parent.logits))
            if parent and parent.logits is not None
            else None,
        }
        log.info("%s: top-1 %.4f, macro F1 %.4f", job.label, top1, macro)


def _ancestor(job: Job, evaluated: list[Job], parents: Mapping[str, str | None]) -> Job | None:
    """The nearest measured ancestor of a variant; on the same device, then in the same runtime, where it can be."""
    name = parents.get(job.variant.name)
    while name is not None:
        found = [other for other in evaluated if other.variant.name == name]
        if found:
            return max(found, key=lambda other: (other.device == job.device, other.runtime == job.runtime))
        name = parents.get(name)
    return None


def _latencies(jobs: list[Job]) -> Iterator[pl.DataFrame]:
    for job in jobs:
        for size, visits in job.visits.items():
            for number, visit in enumerate(visits, 1):
                constant = job.which | {"batch_size": size, "round": number}
                query = np.arange(len(visit.samples))
                yield _frame("latencies", constant, {"query": query, "latency_ms": visit.samples / 1e6})


def _predictions(jobs: list[Job], rows: np.ndarray, labels: np.ndarray) -> Iterator[pl.DataFrame]:
    for job in jobs:
        if job.logits is not None:
            said = {"prediction": metrics.predictions(job.logits), "confidence": metrics.confidence(job.logits)}
            yield _frame("predictions", job.which, {"image": rows, "label": labels, **said})


def _frame(table: str, constant: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Rows of a table from one array a column, and values that are the same in all rows."""
    import polars as pl

    from tasks import tables

    schema = tables.frame(table, []).schema
    frame = pl.DataFrame(dict(arrays)).with_columns(pl.lit(value).alias(key) for key, value in constant.items())
    return frame.select(pl.col(key).cast(dtype) for key, dtype in schema.items())


def _stored(work: Work, table: str, frames: Iterable[pl.DataFrame]) -> Artifact:
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


def _modules(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Runtimes and model families, which are reached by name."""
    from models import families

    found, names = families(), [v.model.partition("-")[0] for v in inputs["variants"]]  # a label: name[-w<width>]
    return (
        *(f"tasks.runtimes.{name}" for name in inputs["settings"].runtimes),
        *(f"models.{found[name]}" for name in dict.fromkeys(names)),
    )


benchmark_task = stage(
    lambda inputs: "benchmark",
    libraries=("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-libs", "numpy"),
    modules=_modules,
    extra=lambda inputs: {"machine": machine.fingerprint()},
)(benchmark)
