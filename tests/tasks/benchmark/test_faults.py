"""Candidates that crash or hang, and interrupted benchmarks: healthy candidates are measured, no process stays."""

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
from tests.support.benchmarks import PLUGINS, living_worker_pids, read_table, settings
from tests.support.paths import ROOT
from tests.support.programs import command, environment

if TYPE_CHECKING:
    from collections.abc import Callable


def test_candidates_that_crash_or_hang_are_failed_rows_and_healthy_ones_are_measured(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 8)
    faults = {
        "open": "ValueError: cannot be opened",
        "segfault": "killed by SIGSEGV; the last line of its log: about to crash",
        "hang": "no answer within 8 s",
        "raise": "RuntimeError: out of memory",
        "nan": "evaluation: outputs for 20 of 20 images are NaN or infinite",
    }
    variants = (fake_variant("good"), *(fake_variant(fault, fault=fault) for fault in faults), fake_variant("good too"))
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
    assert not living_worker_pids()


def test_an_error_at_one_batch_size_fails_only_the_row_of_that_batch_size(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    variant = fake_variant("small", fault="raise", from_batch=4)
    rows = read_table(work, benchmark(work, data, (variant,), settings(evaluation_batch=3)), "benchmarks")
    assert dict(rows.select("batch_size", "status").iter_rows()) == {1: "ok", 4: "failed"}


def test_an_interrupted_benchmark_leaves_no_process_running(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_pids: set[int] = set()

    def interrupt(self: Work, done: float, total: float, text: str) -> None:
        if done == 2:
            worker_pids.update(living_worker_pids())
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, (fake_variant("a"), fake_variant("b")), settings())
    assert len(worker_pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in worker_pids)


def test_a_worker_ends_when_its_parent_is_killed_during_a_query(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant], tmp_path: Path
) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((4, 1, 8, 8), np.float32))
    artifact = fake_variant("stuck", fault="hang").artifact
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
    parent_command = command("start_candidate", json.dumps(asdict(spec)), json.dumps(asdict(effort)), tmp_path / "log")
    python_path = os.pathsep.join(map(str, (ROOT, PLUGINS)))
    parent = subprocess.Popen(parent_command, stdout=subprocess.PIPE, env=environment(PYTHONPATH=python_path))
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    assert worker.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    worker.wait(10)


def test_an_interrupted_benchmark_resumes_after_its_last_finished_round(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Work, done: float, total: float, text: str) -> None:
        visits.append(text.partition(":")[0].partition(" of ")[0])
        if text.startswith("round 3") and not resumed:
            raise KeyboardInterrupt

    visits: list[str] = []
    resumed = False
    monkeypatch.setattr(Work, "progress", interrupt)
    benchmark_settings = settings(rounds=4, processes=2, evaluation_batch=3)
    variants = (fake_variant("a"), fake_variant("b", fault="raise", from_batch=4))
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, variants, benchmark_settings)
    resumed = True
    visits = []
    measured = benchmark(work, data, variants, benchmark_settings)
    assert visits[:3] == ["opening 2 candidates", "opened 1", "opened 2"]
    assert visits[-3:] == ["a · fake · cpu", "b · fake · cpu", "all 2 measured"], "the test images are classified last"
    assert set(visits[3:-3]) == {"round 3", "round 4"}
    rows = read_table(work, measured, "benchmarks")
    outcomes = rows.select("variant", "batch_size", "status", "rounds").rows()
    assert outcomes == [("a", 1, "ok", 4), ("a", 4, "ok", 4), ("b", 1, "ok", 4), ("b", 4, "failed", 0)]
    processes = read_table(work, measured, "certificates").filter(pl.col("variant") == "a")["process"].to_list()
    assert processes == [1, 1, 2, 2] * 2
    assert (
        len(read_table(work, measured, "latencies").filter(pl.col("variant") == "a")) == rows["queries"].head(2).sum()
    )
