"""A candidate whose worker is killed from outside is measured again; a candidate that crashes stays failed."""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tasks.benchmark import benchmark
from tasks.caching import stage
from tasks.caching.keys import Stage
from tasks.caching.results import open_request
from tasks.caching.work import Work
from tasks.candidates import candidate, rounds
from tasks.records import Benchmark, Context, Measured, Prepared, Variant
from tests.support.digits import digits

if TYPE_CHECKING:
    from pathlib import Path

STAGE = Stage(benchmark, lambda inputs: "benchmark", (), None, None)
SETTINGS = Benchmark(
    devices=("cpu",),
    rounds=3,
    processes=1,
    batch_sizes=(1,),
    throughput=False,
    warmup_seconds=0.1,
    min_seconds=0.01,
    min_queries=5,
    threads=1,
).model_copy(update={"runtimes": ("null",)})
ERRORS = {
    signal.SIGKILL: "killed by SIGKILL, as by the kernel where memory runs out; the same command measures it again",
    signal.SIGSEGV: "process killed by SIGSEGV; its log is empty",
}


@pytest.fixture(autouse=True)
def _without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ProgressArtifact", logging.NullHandler)


@pytest.fixture
def variants(tmp_path: Path) -> tuple[Variant, ...]:
    work = Work.at(tmp_path)
    null_variants = []
    for name in ("first", "second"):
        with work.store.temporary() as folder:
            (folder / "model.null").write_text(
                json.dumps({"milliseconds": [0.2, 0.3 + len(null_variants)], "classes": 10})
            )
            artifact = work.store.put(folder / "model.null", "null")
        null_variants.append(
            Variant(name=name, model="lenet5", stage="export", format="null", artifact=artifact, benchmark=True)
        )
    return tuple(null_variants)


def run(out: Path, data: Prepared, variants: tuple[Variant, ...]) -> tuple[bool, dict[str, tuple[str, str | None]]]:
    """Run the stage as a study does. Return whether it was computed, and the status and error per variant."""
    context = Context(out=str(out), run="small-20260101-000001")
    inputs = {"data": data, "variants": variants, "settings": SETTINGS}
    with open_request(STAGE, context, inputs) as request:
        stored_result = request.stored
        measured = stored_result or stage.compute(request, benchmark, inputs)
    assert isinstance(measured, Measured)
    rows = pl.read_parquet(Work.at(out).store.get(measured.tables["benchmarks"])).to_dicts()
    return stored_result is None, {row["variant"]: (row["status"], row["error"]) for row in rows}


@pytest.mark.parametrize("ending_signal", list(ERRORS))
def test_only_a_candidate_killed_from_outside_is_measured_again(
    tmp_path: Path,
    variants: tuple[Variant, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ending_signal: signal.Signals,
) -> None:
    caplog.set_level(logging.INFO)
    data = digits(Work.at(tmp_path), 50)
    save = rounds.resume.save

    def kill_after_the_first_round(
        folder: Path, done: int, candidates: list[candidate.Candidate], settings: Benchmark
    ) -> None:
        save(folder, done, candidates, settings)
        if done == 0 and candidates[1].worker is not None:
            os.kill(candidates[1].worker.pid, ending_signal)

    with monkeypatch.context() as patched:
        patched.setattr(rounds.resume, "save", kill_after_the_first_round)
        assert run(tmp_path, data, variants) == (
            True,
            {"first": ("ok", None), "second": ("failed", ERRORS[ending_signal])},
        )
    assert ERRORS[ending_signal] in caplog.text, "the error is logged while the benchmark still runs"
    caplog.clear()
    computed, outcomes = run(tmp_path, data, variants)
    if ending_signal == signal.SIGSEGV:
        assert (computed, outcomes["second"]) == (False, ("failed", ERRORS[ending_signal])), (
            "the stored failure is used again"
        )
        return
    assert (computed, outcomes) == (True, {"first": ("ok", None), "second": ("ok", None)})
    assert "rounds finished before an interruption: 1" in caplog.text, "the round before the kill is kept"
    assert run(tmp_path, data, variants)[0] is False
    assert not list((tmp_path / "scratch").glob("*/candidates"))
