"""Candidates that crash or hang, and benchmarks that are cut off: the others go on, and no process is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import psutil
import pytest

from tasks.benchmark import benchmark
from tasks.caching.work import Work
from tasks.candidates import process
from tasks.records import Prepared, Variant
from tests.support.benchmarks import PLUGINS, read_table, settings, worker_pids
from tests.support.paths import ROOT
from tests.support.programs import command, environment

if TYPE_CHECKING:
    from collections.abc import Callable


def test_candidates_that_crash_hang_or_misbehave_are_failed_rows_and_the_others_go_on(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 8)
    faults = {
        "open": "ValueError: cannot be opened",
        "segfault": "killed by SIGSEGV; the last line of its log: about to crash",
        "hang": "no answer within 8 s",
        "raise": "RuntimeError: out of memory",
        "nan": "evaluation: outputs for 20 of 20 images are NaN or infinite",
    }
    variants = (fake("good"), *(fake(fault, fault=fault) for fault in faults), fake("good too"))
    measured = benchmark(work, data, variants, settings())
    rows = read_table(work, measured, "benchmarks")
    assert len(rows) == 2 * len(variants)
    for row in rows.iter_rows(named=True):
        if row["variant"] in faults:
            assert row["status"] == "failed"
            assert faults[row["variant"]] in row["error"]
            assert row["latency_median_ms"] is None
        else:
            assert (row["status"], row["error"], row["provider"]) == ("ok", None, "FakeProvider")
            assert (row["rounds"], len(row["round_turns"]), row["threads"]) == (2, 2, 1)
    assert read_table(work, measured, "evaluations")["variant"].to_list() == ["good", "good too"]
    assert not worker_pids()


def test_an_error_at_one_batch_size_fails_that_one_alone(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variant = fake("small", fault="raise", from_batch=4)
    rows = read_table(work, benchmark(work, data, (variant,), settings(evaluation_batch=3)), "benchmarks")
    assert dict(rows.select("batch_size", "status").iter_rows()) == {1: "ok", 4: "failed"}


def test_an_interruption_leaves_no_process(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def interrupted(self: Work, done: float, total: float, text: str) -> None:
        if done == 2:
            seen.update(worker_pids())
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, (fake("a"), fake("b")), settings())
    assert len(seen) == 2
    assert not any(psutil.pid_exists(pid) for pid in seen)


def test_a_candidate_ends_when_its_parent_is_killed_in_the_middle_of_a_query(
    work: Work, data: Prepared, fake: Callable[..., Variant], tmp_path: Path
) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((4, 1, 8, 8), np.float32))
    artifact = fake("stuck", fault="hang").artifact
    assert artifact is not None
    spec = process.Spec(
        runtime="fake",
        path=str(work.store.get(artifact)),
        device="cpu",
        threads=1,
        batch_sizes=(1,),
        pool=str(tmp_path / "pool.npy"),
    )
    effort = process.Effort(warmup_seconds=0.1, min_seconds=0.1, min_queries=1)
    parent = command("start_candidate", json.dumps(asdict(spec)), json.dumps(asdict(effort)), tmp_path / "log")
    paths = os.pathsep.join(map(str, (ROOT, PLUGINS)))
    killed = subprocess.Popen(parent, stdout=subprocess.PIPE, env=environment(PYTHONPATH=paths))
    assert killed.stdout is not None
    child = psutil.Process(int(killed.stdout.readline()))
    time.sleep(0.5)
    assert child.is_running()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    child.wait(10)


def test_an_interrupted_benchmark_goes_on_after_its_last_whole_round(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Work, done: float, total: float, text: str) -> None:
        visits.append(text.partition(":")[0].partition(" of ")[0])
        if text.startswith("round 3") and not resumed:
            raise KeyboardInterrupt

    visits: list[str] = []
    resumed = False
    monkeypatch.setattr(Work, "progress", cut)
    asked, variants = (
        settings(rounds=4, processes=2, evaluation_batch=3),
        (fake("a"), fake("b", fault="raise", from_batch=4)),
    )
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, variants, asked)
    resumed, visits = True, []
    measured = benchmark(work, data, variants, asked)
    assert visits[:3] == ["opening 2 candidates", "opened 1", "opened 2"]
    assert visits[-3:] == ["a · fake · cpu", "b · fake · cpu", "2 candidates measured"], "the held-out images come last"
    assert set(visits[3:-3]) == {"round 3", "round 4"}
    rows = read_table(work, measured, "benchmarks")
    told = rows.select("variant", "batch_size", "status", "rounds").rows()
    assert told == [("a", 1, "ok", 4), ("a", 4, "ok", 4), ("b", 1, "ok", 4), ("b", 4, "failed", 0)]
    process = read_table(work, measured, "certificates").filter(pl.col("variant") == "a")["process"].to_list()
    assert process == [1, 1, 2, 2] * 2
    assert (
        len(read_table(work, measured, "latencies").filter(pl.col("variant") == "a")) == rows["queries"].head(2).sum()
    )
