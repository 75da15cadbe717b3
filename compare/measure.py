"""Measure all entries in one interleaved run, and score their predictions of the same test images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import machine
from tasks.candidates import rows
from tasks.candidates.candidate import fresh_processes, make_candidates, save_pool
from tasks.candidates.process import Images
from tasks.candidates.rounds import run
from tasks.datasets._arrays import load_arrays
from tasks.forms import modelfile
from tasks.machine.devices import release
from tasks.machine.locks import locked
from tasks.measure import metrics
from tasks.measure.intervals import compare_rounds, rounds_of
from tasks.records import Benchmark, Variant

if TYPE_CHECKING:
    from pathlib import Path

    from compare.entries import Entry
    from compare.models import Given
    from tasks.caching.work import Work
    from tasks.candidates.candidate import Candidate

Row = dict[str, Any]


def measure(work: Work, given: Given, entries: list[Entry], settings: Benchmark) -> list[Row]:
    """Return one row per entry and runtime: its latency in every round, and its predictions of the test images.

    An entry without a file is one row with its error.
    """
    import polars as pl

    arrays = load_arrays(work.store, given.data)
    test = arrays.rows_of("test")
    folder = work.scratch / "candidates"
    folder.mkdir()
    np.save(folder / "rows.npy", test)
    save_pool(work, given.data, max(settings.batch_sizes), folder / "pool.npy")
    candidates = [
        candidate
        for number, entry in enumerate(entries)
        if entry.path is not None
        for candidate in _candidates(work, given, entry, settings, folder / f"file-{number}")
    ]
    with locked({"cpu"}, work.log):
        release()
        run(work, candidates, settings, folder)
    table = rows.tables(work, candidates, settings, [])["benchmarks"]
    measured = pl.read_parquet(work.store.get(table)).to_dicts()
    by_name = {(row["variant"], row["runtime"]): row for row in measured}
    logits = {(candidate.variant.name, candidate.runtime): candidate.logits for candidate in candidates}
    labels = arrays.labels[test]
    result: list[Row] = []
    for entry in entries:
        if entry.path is None:
            result.append(_columns(entry) | {"runtime": None, "status": "failed", "error": entry.error})
        for runtime in entry.runtimes:
            key = (entry.name, runtime)
            result.append(_columns(entry) | by_name[key] | _right(logits[key], labels))
    return result


def _candidates(work: Work, given: Given, entry: Entry, settings: Benchmark, folder: Path) -> list[Candidate]:
    """Return one candidate per runtime of an entry, with the test images to evaluate it on."""
    assert entry.path is not None
    file = modelfile.inspect(entry.path)
    variant = Variant(
        name=entry.name,
        model=given.variant.model,
        stage="compare",
        format=file.format,
        artifact=file.artifact(),
        threads=entry.threads,
        options=entry.options,
    )
    images = Images(
        images=str(work.store.get(given.data.images)),
        rows=str(folder.parent / "rows.npy"),
        mean=given.data.mean,
        std=given.data.std,
        batch_size=settings.evaluation_batch,
    )
    path = file.executable(folder)
    return [
        candidate
        for runtime in entry.runtimes
        for candidate in make_candidates(
            variant,
            runtime,
            "cpu",
            path=path,
            settings=settings,
            pool=folder.parent / "pool.npy",
            images=images,
        )
    ]


def _columns(entry: Entry) -> Row:
    """Return the columns that say what an entry is."""
    size = None if entry.path is None else modelfile.inspect(entry.path).artifact().size_bytes
    return {"form": entry.name, "settings": entry.settings, "make_seconds": entry.seconds, "size_bytes": size}


def _right(logits: np.ndarray | None, labels: np.ndarray) -> Row:
    """Return which test images a candidate has right, and its top-1."""
    if logits is None:
        return {"right": None, "top1": None}
    right = metrics.predictions(logits) == labels
    return {"right": right, "top1": float(right.mean())}


def against(row: Row, other: Row, settings: Benchmark, prefix: str) -> Row:
    """Compare a measured row with another; return columns whose names begin with the prefix.

    Both latencies are compared by paired rounds (99 % interval), and both accuracies on the same images (95 %).
    """
    if row["status"] != "ok" or other["status"] != "ok":
        return {}
    columns: Row = {}
    processes = fresh_processes(settings)
    paired = compare_rounds(rounds_of(other, processes), rounds_of(row, processes))
    if paired is not None:
        columns |= dict(zip(("ratio", "low", "high", "verdict"), paired, strict=True))
    if row["right"] is not None and other["right"] is not None:
        lost = int((other["right"] & ~row["right"]).sum())
        mended = int((row["right"] & ~other["right"]).sum())
        images = len(row["right"])
        low, high = metrics.paired_drop(lost, mended, images)
        columns |= {
            "drop": (lost - mended) / images,
            "drop_low": low,
            "drop_high": high,
            "mcnemar": metrics.mcnemar(lost, mended),
        }
    return {f"{prefix}_{name}": value for name, value in columns.items()}


def environment() -> Row:
    """Return the columns that say on which machine the rows were measured."""
    about = machine.environment()
    return {name: about[name] for name in ("cpu_model", "cpu_cores", "cpu_features", "load_average", "os", "libraries")}
