"""Candidates are visited in rounds and turns, in processes, groups and budgets as the settings say."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks import machine
from tasks.benchmark import benchmark
from tasks.caching.work import Work
from tasks.candidates import process
from tasks.candidates.candidate import Candidate
from tasks.candidates.rounds import GPU_BYTES, PROCESS_BYTES, _groups
from tasks.machine.locks import locked
from tasks.measure.intervals import compare, turns
from tasks.records import Prepared, Variant
from tests.support.benchmarks import read_table, settings, worker_pids

if TYPE_CHECKING:
    from collections.abc import Callable


def test_candidates_are_visited_in_rounds_and_turns_in_a_rotating_order_one_at_a_time(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def noted(name: str) -> None:
        original = getattr(process.Worker, name)

        def call(self: process.Worker, *arguments: Any) -> Any:
            told.append(f"{name[0]}{self._log.name[0]}")
            return original(self, *arguments)

        monkeypatch.setattr(process.Worker, name, call)

    for name in ("warm_up", "turn", "finish"):
        noted(name)
    variants = tuple(fake(name) for name in "abc")
    asked = settings(rounds=3, batch_sizes=(4, 1), min_seconds=0.1, min_queries=1)
    measured = benchmark(work, data, variants, asked)
    first = "wa wb wc ta tb tc tb tc ta fa fb fc"
    second, third = (first.translate(str.maketrans("abc", order)) for order in ("bca", "cab"))
    assert " ".join(told) == " ".join([first, first, second, second, third, third])
    # the fake fails where queries overlap
    assert set(read_table(work, measured, "benchmarks")["status"]) == {"ok"}


@pytest.mark.alone
def test_the_same_program_twice_is_indistinguishable_and_a_slower_one_is_slower(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variants = (fake("a", ms=2), fake("same as a", ms=2), fake("slow", ms=10))
    rows = read_table(work, benchmark(work, data, variants, settings(rounds=4, batch_sizes=(1,))), "benchmarks")
    a, same, slow = (turns(row) for row in rows.iter_rows(named=True))
    assert compare(a, same)[3] == "indistinguishable"
    assert compare(a, slow)[3] == "slower"
    assert compare(slow, a)[3] == "faster"


def test_when_memory_is_short_groups_are_started_anew_in_every_round(
    work: Work,
    data: Prepared,
    fake: Callable[..., Variant],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(machine, "memory_available", lambda: 1_000_000_000)
    most, progress = [], Work.progress
    monkeypatch.setattr(Work, "progress", lambda self, *told: (most.append(len(worker_pids())), progress(self, *told)))
    measured = benchmark(work, data, tuple(fake(name) for name in "abc"), settings())
    assert max(most) == 2
    assert "2 groups, started anew in every round" in caplog.text
    assert read_table(work, measured, "benchmarks")["rounds"].to_list() == [2] * 6
    assert len(read_table(work, measured, "evaluations")) == 3


def test_candidates_of_a_group_fit_into_the_memory_of_their_gpu_too(fake: Callable[..., Variant]) -> None:
    variant = fake("a")
    assert variant.artifact is not None
    weights = 3 * variant.artifact.size_bytes

    def groups(memory: dict[str, float]) -> list[str]:
        candidates = [
            Candidate(variant, "fake", device, None) for device in ("cuda:0", "cpu", "cuda:1", "cuda:0", "cuda:0")
        ]  # type: ignore[arg-type]
        return [" ".join(candidate.device for candidate in group) for group in _groups(candidates, memory)]

    enough = {"cpu": 5.0 * (PROCESS_BYTES + weights)}
    two, one = 2 * (GPU_BYTES + weights), GPU_BYTES + weights
    assert groups(enough) == ["cuda:0 cpu cuda:1 cuda:0 cuda:0"], "a GPU's memory is not known"
    assert groups(enough | {"cuda:0": two, "cuda:1": one}) == ["cuda:0 cpu cuda:1 cuda:0", "cuda:0"]
    assert groups(enough | {"cuda:0": one - 1}) == ["cuda:0 cpu cuda:1", "cuda:0", "cuda:0"]


def test_a_second_benchmark_waits_for_the_device_and_says_so(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)
    order: list[str] = []

    def second() -> None:
        with locked({"cpu"}, logging.getLogger("second")):
            order.append("second")

    with locked({"cpu", "cuda:0"}, logging.getLogger("first")):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.7)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "waiting: another benchmark runs on cpu" in caplog.text


def test_rounds_are_spread_over_fresh_processes(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    for processes, expected in ((None, [1, 2, 3, 4]), (2, [1, 1, 2, 2]), (1, [1, 1, 1, 1])):
        asked = settings(rounds=4, processes=processes, batch_sizes=(1,))
        measured = benchmark(work, data, (fake("a"),), asked)
        assert read_table(work, measured, "certificates")["process"].to_list() == expected
        (row,) = read_table(work, measured, "benchmarks").to_dicts()
        assert row["processes"] == len(set(expected))
        assert (row["process_std_ms"] is None) == (processes == 1)
        assert len(read_table(work, measured, "evaluations")) == 1


@pytest.mark.alone
def test_a_budget_is_kept_by_fewer_queries_and_every_row_is_there(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    asked = settings(batch_sizes=(1, 4), min_seconds=5, min_queries=500, minutes=12 / 60, throughput=True, threads=2)
    started = time.monotonic()
    measured = benchmark(work, data, (fake("a", ms=20), fake("b", ms=5)), asked)
    assert 0.8 * 12 < time.monotonic() - started < 1.1 * 12
    for table in ("benchmarks", "throughputs"):
        rows = read_table(work, measured, table)
        assert rows["status"].to_list() == ["ok"] * 4
        assert rows["rounds"].to_list() == [2] * 4
        assert (rows["queries"] < 2 * 500).all()
