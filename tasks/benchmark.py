"""Benchmark: latency, memory and prediction quality of every deployable form, in every runtime, on every device.

tasks/measure/clock.py says how a query is timed, tasks/candidates/rounds.py in which order candidates are visited, and
tasks/candidates/rows.py which rows come of it. This file decides what is measured, and scores the predictions.
"""

from __future__ import annotations

import json
import shutil
from itertools import product, takewhile
from typing import TYPE_CHECKING

import numpy as np

from tasks import machine, runtimes
from tasks.caching.stage import stage
from tasks.candidates.candidate import Candidate, libraries, make_candidates, modules, save_pool
from tasks.candidates.process import Images
from tasks.candidates.rounds import run
from tasks.candidates.rows import frame, store_frames, tables
from tasks.datasets._arrays import load_arrays
from tasks.machine.devices import release
from tasks.machine.locks import locked
from tasks.measure import metrics
from tasks.records import AUTO, Measured

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import polars as pl

    from tasks.caching.work import Work
    from tasks.records import Benchmark, Prepared, Variant


def benchmark(work: Work, data: Prepared, variants: tuple[Variant, ...], settings: Benchmark) -> Measured:
    """Measure every variant that is marked for it in each runtime of the study that takes its format, on each device.

    Returns
    -------
    Measured
        Fragments of latencies, benchmarks, memory, evaluations, predictions and environments. A candidate that fails,
        or that this machine cannot run, is a row of `benchmarks` with the reason, and the others are measured.
    """
    # Rounds that an interrupted benchmark has finished lie in this folder.
    folder = work.scratch / "candidates"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("test")
    np.save(folder / "rows.npy", rows)
    save_pool(work, data, max(settings.batch_sizes), folder / "pool.npy")
    candidates, unmeasured = _plan(work, data, variants, settings, folder)
    with locked({"cpu", *(candidate.device for candidate in candidates)}, work.log):
        environment = machine.environment()
        release()
        run(work, candidates, settings, folder)
    labels = arrays.labels[rows]
    parents = {variant.name: variant.parent for variant in variants}
    evaluations = list(_evaluations(work.log, candidates, labels, parents))
    predictions = _predictions(candidates, rows, labels, _file_names(work, data, rows))
    measured = Measured(
        tables=tables(work, candidates, settings, unmeasured)
        | {
            "environments": work.rows("environments", [environment]),
            "evaluations": work.rows("evaluations", evaluations),
            "predictions": store_frames(work, "predictions", predictions),
        },
        passing=tuple(f"{candidate.label}: {candidate.error}" for candidate in candidates if candidate.killed),
    )
    # Where a candidate was killed, the next run measures again, and needs the rounds that were finished before.
    if not measured.passing:
        shutil.rmtree(folder)
    return measured


def _plan(
    work: Work, data: Prepared, variants: tuple[Variant, ...], settings: Benchmark, folder: Path
) -> tuple[list[Candidate], list[dict[str, object]]]:
    """Return the candidates to measure, and rows of `benchmarks` for what cannot be measured."""
    candidates: list[Candidate] = []
    rows: list[dict[str, object]] = []
    devices = machine.resolve_devices(settings.devices)
    assert AUTO not in settings.runtimes, "flows/plan.py decides what it stands for"
    images = Images(
        images=str(work.store.get(data.images)),
        rows=str(folder / "rows.npy"),
        mean=data.mean,
        std=data.std,
        batch_size=settings.evaluation_batch,
    )

    def add_rows(variant: Variant, runtime: str, device: str, *, status: str, error: str | None) -> None:
        columns = {"variant": variant.name, "runtime": runtime, "device": device, "status": status, "error": error}
        rows.extend(columns | {"batch_size": size, "rounds": 0, "queries": 0} for size in settings.batch_sizes)

    for variant in variants:
        takers = [
            name
            for name in settings.runtimes
            if variant.format in runtimes.load(name).FORMATS and name not in variant.left_out_of
        ]
        if variant.artifact is None:
            if takers:
                add_rows(variant, takers[0], devices[0], status=variant.status, error=variant.error)
            continue
        if not variant.benchmark:
            continue
        if not takers:
            work.log.warning("%s: no runtime of the study takes the format %s", variant.name, variant.format)
        # A configuration is one of a CPU.
        of_variant = devices if variant.threads is None else tuple(device for device in devices if device == "cpu")
        for runtime, device in product(takers, of_variant):
            reason = runtimes.load(runtime).unavailable(device)
            if reason:
                add_rows(variant, runtime, device, status="skipped", error=reason)
                continue
            path = work.store.get(variant.artifact)
            candidates += make_candidates(
                variant, runtime, device, path=path, settings=settings, pool=folder / "pool.npy", images=images
            )
    return candidates, rows


def _evaluations(
    log: logging.Logger, candidates: list[Candidate], labels: np.ndarray, parents: Mapping[str, str | None]
) -> Iterator[dict[str, object]]:
    """Yield one row of `evaluations` per candidate that has logits. `parents` has each variant's parent, by name."""
    evaluated = [candidate for candidate in candidates if candidate.logits is not None]
    for candidate in evaluated:
        assert candidate.logits is not None
        quality = metrics.quality(candidate.logits, labels)
        ancestor = _ancestor(candidate, evaluated, parents)
        agreement = None
        difference = None
        if ancestor is not None:
            assert ancestor.logits is not None
            agreement = metrics.agreement(metrics.predictions(candidate.logits), metrics.predictions(ancestor.logits))
            difference = metrics.logit_difference(ancestor.logits, candidate.logits)
        yield (
            candidate.columns
            | quality
            | {
                "parent": ancestor.variant.name if ancestor else None,
                "images": len(labels),
                "agreement": agreement,
                "logit_difference": difference,
            }
        )
        log.info(
            "%s: top-1 %.4f, macro F1 %.4f",
            candidate.label,
            quality["top1"],
            quality["macro_f1"],
            extra={"detail": True},
        )


def _ancestor(candidate: Candidate, evaluated: list[Candidate], parents: Mapping[str, str | None]) -> Candidate | None:
    """Return the evaluated candidate of the nearest ancestor of a candidate's variant.

    Of several, one on the same device is preferred, then one in the same runtime. Where there is none, it is the same
    variant in the runtime that stands first, and None for that one itself.
    """
    name = parents.get(candidate.variant.name)
    while name is not None:
        ancestors = [other for other in evaluated if other.variant.name == name]
        if ancestors:
            return max(
                ancestors,
                key=lambda other: (other.device == candidate.device, other.runtime == candidate.runtime),
            )
        name = parents.get(name)
    before = takewhile(lambda other: other is not candidate, evaluated)
    originals = [other for other in before if other.variant.name == candidate.variant.name]
    return max(originals, key=lambda other: other.device == candidate.device, default=None)


def _file_names(work: Work, data: Prepared, rows: np.ndarray) -> list[str | None]:
    """Return the image file of each row. It is None where the source of the images has no files."""
    if data.names is None:
        return [None] * len(rows)
    names = json.loads(work.store.get(data.names).read_text(encoding="utf-8"))
    return [names[row] or None for row in rows]


def _predictions(
    candidates: list[Candidate], rows: np.ndarray, labels: np.ndarray, names: list[str | None]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of `predictions` of one candidate after the other: one row per image."""
    for candidate in candidates:
        if candidate.logits is not None:
            arrays: dict[str, np.ndarray | list[str | None]] = {
                "image": rows,
                "file": names,
                "label": labels,
                "prediction": metrics.predictions(candidate.logits),
                "confidence": metrics.confidence(candidate.logits),
            }
            yield frame("predictions", candidate.columns, arrays)


def _names_key(data: Prepared) -> str:
    """Return what the cache key holds of the images' names, which stand in the table of predictions."""
    return data.names.sha256 if data.names else "none"


benchmark_task = stage(
    lambda inputs: "benchmark",
    libraries=lambda inputs: libraries(inputs["settings"]),
    modules=lambda inputs: modules(inputs["settings"], inputs["variants"]),
    extra=lambda inputs: {"machine": machine.fingerprint(), "names of the images": _names_key(inputs["data"])},
    devices=lambda inputs: tuple({"cpu", *machine.resolve_devices(inputs["settings"].devices)}),
)(benchmark)
