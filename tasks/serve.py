"""Serve: the winner in the scenarios of MLPerf's LoadGen (tasks/measure/scenarios.py), in fresh processes of its
own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks import machine, tables
from tasks.caching.stage import stage
from tasks.candidates.candidate import make_candidates, modules, save_pool
from tasks.candidates.process import Worker
from tasks.machine.locks import locked
from tasks.measure.scenarios import capacity
from tasks.records import Output, Study
from tasks.tables.figures import words
from tasks.tables.summary import PARTS, summarise

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.records import Artifact, Prepared, Serve, Variant


def serve(
    work: Work,
    data: Prepared,
    variants: tuple[Variant, ...],
    study: Study,
    settings: Serve,
    fragments: dict[str, tuple[Artifact, ...]],
) -> Output:
    """Single stream, offline and server for the study's winner, at the batch size that it won at.

    Returns
    -------
    Output
        A fragment of `scenarios`; empty where the study has no winner.
    """
    folder = work.scratch / "serve"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PARTS:
        tables.merge(name, [work.store.get(a) for a in fragments.get(name, ())], folder / f"{name}.parquet")
    winner = summarise({name: pl.read_parquet(folder / f"{name}.parquet") for name in PARTS}, study).winner
    if winner is None:
        work.log.info("no winner, so there is nothing to serve")
        return Output(tables={"scenarios": work.rows("scenarios", [])})
    (variant,) = (v for v in variants if v.name == winner["variant"])
    assert variant.artifact is not None
    size, device = winner["batch_size"], winner["device"]
    save_pool(work, data, size, folder / "pool.npy")
    asked = study.benchmark.model_copy(update={"batch_sizes": (size,), "throughput": True})
    single, several = make_candidates(
        variant, winner["runtime"], device, work.store.get(variant.artifact), asked, folder / "pool.npy"
    )
    rows: list[dict[str, Any]] = []
    with locked({"cpu", device}, work.log):
        for candidate, names in ((single, ("single_stream",)), (several, ("offline", "server"))):
            worker = Worker(candidate.spec, folder / f"{candidate.experiment}.log")
            try:
                worker.receive()
                for name in names:
                    work.progress(len(rows), 3, f"{name}: {words(winner)}")
                    limit = settings.limit_ms or (LIMIT * rows[0]["latency_median_ms"] if rows else None)
                    found = worker.ask(
                        "scenario",
                        name=name,
                        batch_size=size,
                        seconds=settings.seconds,
                        limit_ms=limit,
                        trials=settings.trials,
                        seed=settings.seed,
                        highest=_rate(rows),
                    )
                    rows += found["rows"]
            finally:
                worker.kill()
    work.progress(3, 3, f"served {words(winner)}")
    work.log.info("%s", capacity(rows))
    return Output(
        tables={"scenarios": work.rows("scenarios", [candidate.which | {"batch_size": size} | row for row in rows])}
    )


LIMIT = 10.0
"""Default limit of the server scenario's p99, in medians of the single stream."""


def _rate(rows: list[dict[str, Any]]) -> float | None:
    """Queries a second of the offline scenario, above which no server can be."""
    return next((row["achieved_rate"] for row in rows if row["scenario"] == "offline"), None)


serve_task = stage(
    lambda inputs: "serve",
    libraries=("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "numpy"),
    modules=lambda inputs: modules(inputs["study"].benchmark, inputs["variants"]),
    extra=lambda inputs: {"machine": machine.fingerprint()},
    counted={"study": Study.rule},
    devices=lambda inputs: tuple({"cpu", *machine.resolve_devices(inputs["study"].benchmark.devices)}),
)(serve)
