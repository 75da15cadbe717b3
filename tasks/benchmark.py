"""Benchmark: latency, memory and prediction quality of every deployable form, in every runtime, on every device.

What is measured is in tasks/measure/clock.py, how candidates are visited in tasks/candidates/rounds.py; here are the
rows that result.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from tasks import machine, runtimes
from tasks.caching.stage import stage
from tasks.candidates.candidate import Candidate, make_candidates, modules, save_pool
from tasks.candidates.process import Images
from tasks.candidates.rounds import run
from tasks.candidates.rows import frame, stored, tables
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
    """Measure every variant marked for it in every asked runtime that takes its format, on every asked device.

    Returns
    -------
    Measured
        Fragments of latencies, benchmarks, memory, evaluations, predictions and environments. What fails, and what
        cannot run here, is a row of `benchmarks` with the reason; the others go on.
    """
    folder = work.scratch / "candidates"
    # rounds of an interrupted benchmark lie there
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
    evaluations = list(_evaluations(work.log, candidates, labels, {v.name: v.parent for v in variants}))
    made = Measured(
        tables=tables(work, candidates, settings, unmeasured)
        | {
            "environments": work.rows("environments", [environment]),
            "evaluations": work.rows("evaluations", evaluations),
            "predictions": stored(
                work, "predictions", _predictions(candidates, rows, labels, _names(work, data, rows))
            ),
        },
        passing=tuple(f"{candidate.label}: {candidate.error}" for candidate in candidates if candidate.killed),
    )
    # else the rounds before are there for the next run
    if not made.passing:
        shutil.rmtree(folder)
    return made


def _plan(
    work: Work, data: Prepared, variants: tuple[Variant, ...], settings: Benchmark, folder: Path
) -> tuple[list[Candidate], list[dict[str, object]]]:
    """(What to measure, rows of what cannot be measured)."""
    candidates: list[Candidate] = []
    rows: list[dict[str, object]] = []
    devices = machine.resolve_devices(settings.devices)
    assert AUTO not in settings.runtimes, "flows/plan.py decides what it stands for"
    asked = Images(
        images=str(work.store.get(data.images)),
        rows=str(folder / "rows.npy"),
        mean=data.mean,
        std=data.std,
        batch_size=settings.evaluation_batch,
    )

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
            path = work.store.get(variant.artifact)
            candidates += make_candidates(variant, runtime, device, path, settings, folder / "pool.npy", asked)
    return candidates, rows


def _evaluations(
    log: logging.Logger, candidates: list[Candidate], labels: np.ndarray, parents: Mapping[str, str | None]
) -> Iterator[dict[str, object]]:
    evaluated = [candidate for candidate in candidates if candidate.logits is not None]
    for candidate in evaluated:
        assert candidate.logits is not None
        quality = metrics.quality(candidate.logits, labels)
        parent = _ancestor(candidate, evaluated, parents)
        agreement = None
        if parent is not None:
            assert parent.logits is not None
            agreement = metrics.agreement(metrics.predictions(candidate.logits), metrics.predictions(parent.logits))
        yield (
            candidate.which
            | quality
            | {
                "parent": parent.variant.name if parent else None,
                "images": len(labels),
                "agreement": agreement,
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
    """The nearest measured ancestor of a variant; on the same device, then in the same runtime, where it can be."""
    name = parents.get(candidate.variant.name)
    while name is not None:
        found = [other for other in evaluated if other.variant.name == name]
        if found:
            return max(found, key=lambda other: (other.device == candidate.device, other.runtime == candidate.runtime))
        name = parents.get(name)
    return None


def _names(work: Work, data: Prepared, rows: np.ndarray) -> list[str | None]:
    """Image file of each row, None where the source has none."""
    if data.names is None:
        return [None] * len(rows)
    names = json.loads(work.store.get(data.names).read_text(encoding="utf-8"))
    return [names[row] or None for row in rows]


def _predictions(
    candidates: list[Candidate], rows: np.ndarray, labels: np.ndarray, names: list[str | None]
) -> Iterator[pl.DataFrame]:
    for candidate in candidates:
        if candidate.logits is not None:
            said = {
                "prediction": metrics.predictions(candidate.logits),
                "confidence": metrics.confidence(candidate.logits),
            }
            yield frame("predictions", candidate.which, {"image": rows, "file": names, "label": labels, **said})


def _names_key(data: Prepared) -> str:
    return data.names.sha256 if data.names else "none"


benchmark_task = stage(
    lambda inputs: "benchmark",
    libraries=("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "numpy"),
    modules=lambda inputs: modules(inputs["settings"], inputs["variants"]),
    extra=lambda inputs: {"machine": machine.fingerprint(), "names of the images": _names_key(inputs["data"])},
    devices=lambda inputs: tuple({"cpu", *machine.resolve_devices(inputs["settings"].devices)}),
)(benchmark)
