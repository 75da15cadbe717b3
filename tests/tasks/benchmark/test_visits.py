"""The settings decide in which rounds, turns, processes and groups candidates are measured, and for how long."""

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
from tests.support.benchmarks import living_worker_pids, read_table, settings

if TYPE_CHECKING:
    from collections.abc import Callable


def test_candidates_take_turns_one_at_a_time_and_each_round_rotates_their_order(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record_calls(name: str) -> None:
        original = getattr(process.Worker, name)

        def call(self: process.Worker, *arguments: Any) -> Any:
            calls.append(f"{name[0]}{self._log.name[0]}")
            return original(self, *arguments)

        monkeypatch.setattr(process.Worker, name, call)

    for name in ("warm_up", "turn", "finish"):
        record_calls(name)
    variants = tuple(fake_variant(name) for name in "abc")
    benchmark_settings = settings(rounds=3, batch_sizes=(4, 1), min_seconds=0.1, min_queries=1)
    measured = benchmark(work, data, variants, benchmark_settings)
    first = "wa wb wc ta tb tc tb tc ta fa fb fc"
    second, third = (first.translate(str.maketrans("abc", order)) for order in ("bca", "cab"))
    assert " ".join(calls) == " ".join([first, first, second, second, third, third])
    # The fake runtime fails where queries overlap.
    assert set(read_table(work, measured, "benchmarks")["status"]) == {"ok"}


@pytest.mark.alone
def test_equal_programs_are_indistinguishable_and_a_slower_program_is_slower(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    variants = (fake_variant("a", ms=2), fake_variant("same as a", ms=2), fake_variant("slow", ms=10))
    rows = read_table(work, benchmark(work, data, variants, settings(rounds=4, batch_sizes=(1,))), "benchmarks")
    a, same, slow = (turns(row) for row in rows.iter_rows(named=True))
    assert compare(a, same)[3] == "indistinguishable"
    assert compare(a, slow)[3] == "slower"
    assert compare(slow, a)[3] == "faster"


def test_where_memory_is_short_candidates_run_in_groups_started_anew_every_round(
    work: Work,
    data: Prepared,
    fake_variant: Callable[..., Variant],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(machine, "memory_available", lambda: 1_000_000_000)
    process_counts = []
    progress = Work.progress

    def count_processes(self: Work, *arguments: Any) -> None:
        process_counts.append(len(living_worker_pids()))
        progress(self, *arguments)

    monkeypatch.setattr(Work, "progress", count_processes)
    measured = benchmark(work, data, tuple(fake_variant(name) for name in "abc"), settings())
    assert max(process_counts) == 2
    assert "2 groups, started anew in every round" in caplog.text
    assert read_table(work, measured, "benchmarks")["rounds"].to_list() == [2] * 6
    assert len(read_table(work, measured, "evaluations")) == 3


def test_the_candidates_of_a_group_also_fit_into_the_memory_of_their_gpu(fake_variant: Callable[..., Variant]) -> None:
    variant = fake_variant("a")
    assert variant.artifact is not None
    weights = 3 * variant.artifact.size_bytes

    def groups(memory: dict[str, float]) -> list[str]:
        candidates = [
            Candidate(variant, "fake", device, None) for device in ("cuda:0", "cpu", "cuda:1", "cuda:0", "cuda:0")
        ]  # type: ignore[arg-type]
        return [" ".join(candidate.device for candidate in group) for group in _groups(candidates, memory)]

    enough_ram = {"cpu": 5.0 * (PROCESS_BYTES + weights)}
    memory_for_one = GPU_BYTES + weights
    memory_for_two = 2 * memory_for_one
    assert groups(enough_ram) == ["cuda:0 cpu cuda:1 cuda:0 cuda:0"], "a GPU whose memory is unknown splits no group"
    assert groups(enough_ram | {"cuda:0": memory_for_two, "cuda:1": memory_for_one}) == [
        "cuda:0 cpu cuda:1 cuda:0",
        "cuda:0",
    ]
    assert groups(enough_ram | {"cuda:0": memory_for_one - 1}) == ["cuda:0 cpu cuda:1", "cuda:0", "cuda:0"]


def test_a_second_benchmark_waits_for_its_device_and_logs_that_it_waits(
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


def test_the_rounds_of_a_candidate_are_spread_over_its_processes(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    for processes, expected in ((None, [1, 2, 3, 4]), (2, [1, 1, 2, 2]), (1, [1, 1, 1, 1])):
        benchmark_settings = settings(rounds=4, processes=processes, batch_sizes=(1,))
        measured = benchmark(work, data, (fake_variant("a"),), benchmark_settings)
        assert read_table(work, measured, "certificates")["process"].to_list() == expected
        (row,) = read_table(work, measured, "benchmarks").to_dicts()
        assert row["processes"] == len(set(expected))
        assert (row["process_std_ms"] is None) == (processes == 1)
        assert len(read_table(work, measured, "evaluations")) == 1


@pytest.mark.alone
def test_a_benchmark_keeps_to_its_minutes_by_fewer_queries_and_omits_no_row(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    benchmark_settings = settings(
        batch_sizes=(1, 4), min_seconds=5, min_queries=500, minutes=12 / 60, throughput=True, threads=2
    )
    started = time.monotonic()
    measured = benchmark(work, data, (fake_variant("a", ms=20), fake_variant("b", ms=5)), benchmark_settings)
    assert 0.8 * 12 < time.monotonic() - started < 1.1 * 12
    for table in ("benchmarks", "throughputs"):
        rows = read_table(work, measured, table)
        assert rows["status"].to_list() == ["ok"] * 4
        assert rows["rounds"].to_list() == [2] * 4
        assert (rows["queries"] < 2 * 500).all()
