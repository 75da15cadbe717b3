"""Serve: the winner is measured in the scenarios of MLPerf's LoadGen (tasks/measure/scenarios.py).

It has fresh worker processes of its own.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks import machine, tables
from tasks.caching.stage import stage
from tasks.candidates.candidate import libraries, make_candidates, modules, save_pool
from tasks.candidates.process import Worker
from tasks.machine.locks import locked
from tasks.measure.scenarios import capacity
from tasks.records import Output, Study
from tasks.tables.figures import words
from tasks.tables.summary import PARTS, summarise

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.candidates.candidate import Candidate
    from tasks.records import Artifact, Prepared, Serve, Variant


LIMIT = 10.0
"""Where the study names no limit, the server scenario's p99 may be this many times the median of the single stream."""
# Scenarios in the order in which they are measured, by the experiment whose candidate they are measured with: the
# server scenario needs what the two before it found.
SCENARIOS = (("latency", ("single_stream",)), ("throughput", ("offline", "server")))


def serve(
    work: Work,
    data: Prepared,
    variants: tuple[Variant, ...],
    study: Study,
    settings: Serve,
    fragments: dict[str, tuple[Artifact, ...]],
) -> Output:
    """Measure the study's winner in the scenarios single stream, offline and server, at the batch size that it won at.

    Returns
    -------
    Output
        A fragment of `scenarios`. It is empty where the study has no winner.
    """
    folder = work.scratch / "serve"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    winner = _winner(work, study, fragments, folder)
    if winner is None:
        work.log.info("no winner, so there is nothing to serve")
        return Output(tables={"scenarios": work.rows("scenarios", [])})
    (variant,) = (variant for variant in variants if variant.name == winner["variant"])
    assert variant.artifact is not None
    size, device = winner["batch_size"], winner["device"]
    save_pool(work, data, size, folder / "pool.npy")
    candidates = make_candidates(
        variant,
        winner["runtime"],
        device,
        path=work.store.get(variant.artifact),
        settings=study.benchmark.model_copy(update={"batch_sizes": (size,), "throughput": True}),
        pool=folder / "pool.npy",
    )
    with locked({"cpu", device}, work.log):
        rows = _measure(work, candidates, settings, winner, folder)
    work.progress(3, 3, f"served {words(winner)}")
    work.log.info("%s", capacity(rows))
    columns = candidates[0].columns | {"batch_size": size}
    return Output(tables={"scenarios": work.rows("scenarios", [columns | row for row in rows])})


def _winner(
    work: Work, study: Study, fragments: dict[str, tuple[Artifact, ...]], folder: Path
) -> dict[str, Any] | None:
    """Return the winner's row of the summary, or None where the study has no winner."""
    parts = {}
    for name in PARTS:
        path = folder / f"{name}.parquet"
        tables.merge(name, [work.store.get(artifact) for artifact in fragments.get(name, ())], path)
        parts[name] = pl.read_parquet(path)
    return summarise(parts, study).winner


def _measure(
    work: Work, candidates: list[Candidate], settings: Serve, winner: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Return the rows of all scenarios, measured in one fresh worker process per experiment."""
    rows: list[dict[str, Any]] = []
    by_experiment = {candidate.experiment: candidate for candidate in candidates}
    for experiment, names in SCENARIOS:
        worker = Worker(by_experiment[experiment].spec, folder / f"{experiment}.log")
        try:
            worker.receive()
            for name in names:
                work.progress(len(rows), 3, f"{name}: {words(winner)}")
                answer = worker.ask(
                    "scenario",
                    name=name,
                    batch_size=winner["batch_size"],
                    seconds=settings.seconds,
                    limit_ms=_limit_ms(settings, rows),
                    trials=settings.trials,
                    seed=settings.seed,
                    highest=_offline_rate(rows),
                )
                rows += answer["rows"]
        finally:
            worker.kill()
    return rows


def _limit_ms(settings: Serve, rows: list[dict[str, Any]]) -> float | None:
    """Return the limit of the server scenario's p99, in milliseconds. None before the single stream was measured."""
    if settings.limit_ms:
        return settings.limit_ms
    return LIMIT * rows[0]["latency_median_ms"] if rows else None


def _offline_rate(rows: list[dict[str, Any]]) -> float | None:
    """Return how many queries per second the offline scenario reached; no server can answer more. None before it."""
    for row in rows:
        if row["scenario"] == "offline":
            return row["achieved_rate"]
    return None


serve_task = stage(
    lambda inputs: "serve",
    libraries=lambda inputs: libraries(inputs["study"].benchmark),
    modules=lambda inputs: modules(inputs["study"].benchmark, inputs["variants"]),
    extra=lambda inputs: {"machine": machine.fingerprint()},
    counted={"study": Study.rule},
    devices=lambda inputs: tuple({"cpu", *machine.resolve_devices(inputs["study"].benchmark.devices)}),
)(serve)
