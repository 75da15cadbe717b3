"""LoadGen's scenarios against queueing theory, on a simulated clock and in real time."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tasks.measure import clock as timing
from tasks.measure import scenarios
from tasks.measure.intervals import percentile
from tasks.measure.scenarios import capacity as capacity_sentence
from tasks.measure.scenarios import offline, serve, server, server_capacity, single_stream, tail

pytestmark = pytest.mark.alone
COLUMNS = {
    "scenario",
    "slots",
    "batch_size",
    "target_rate",
    "achieved_rate",
    "images_per_second",
    "queries",
    "seconds",
    "latency_median_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "limit_ms",
    "kept",
    "note",
}


class Clock:
    """A clock for one slot that only sleeping and queries move. Sleeping for no time at all takes 10 us."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e9) or 10_000

    def query_taking(self, *milliseconds: float) -> Callable[[], None]:
        """Return a query that takes these durations in turn, again and again."""
        number = iter(range(10**9))

        def query() -> None:
            self.now += int(milliseconds[next(number) % len(milliseconds)] * 1e6)

        return query


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    simulated = Clock()
    for module in (timing, scenarios):
        monkeypatch.setattr(module, "perf_counter_ns", simulated)
    monkeypatch.setattr(scenarios, "sleep", simulated.sleep)
    return simulated


def test_the_tail_equals_loadgens_early_stopping_estimate() -> None:
    def loadgen(n: int, p: float) -> int:
        """Return the largest t for which h(t) + t <= n, as LoadGen's results.cc does; the estimate is sorted[n - t]."""
        return max(t for t in range(1, n) if stats.binom.cdf(t, n, 1 - p) <= 0.01)

    for n, p in ((64, 90), (100, 90), (1000, 90), (662, 99), (5000, 99)):
        samples = np.random.default_rng(n).permutation(np.arange(float(n)))
        assert tail(samples, p) == n - loadgen(n, p / 100)
    assert (tail(np.arange(63.0), 90), tail(np.arange(661.0), 99)) == (None, None)
    assert tail(np.arange(64.0), 90) == 63


def test_the_tail_is_above_the_true_percentile_in_99_of_100_cases() -> None:
    cases = np.random.default_rng(0).exponential(size=(1000, 662))
    for p in (90, 99):
        above = sum(tail(case, p) >= -math.log(1 - p / 100) for case in cases)  # type: ignore[operator]
        assert above >= 0.99 * 1000 - 3 * math.sqrt(0.01 * 0.99 * 1000)


def test_single_stream_reports_p90_of_queries_sent_back_to_back(clock: Clock) -> None:
    row = single_stream(clock.query_taking(*range(1, 11)), batch_size=8, seconds=10)
    assert row.keys() == COLUMNS
    assert (row["scenario"], row["slots"], row["batch_size"], row["target_rate"]) == ("single_stream", 1, 8, None)
    assert row["queries"] == pytest.approx(10 / 0.0055, abs=1)
    assert row["achieved_rate"] == pytest.approx(1000 / 5.5, rel=0.01)
    assert row["images_per_second"] == 8 * row["achieved_rate"]
    assert (row["latency_median_ms"], row["latency_p90_ms"], row["latency_p99_ms"]) == (5, 10, 10)


def test_offline_reports_images_per_second_of_all_slots_together() -> None:
    rows = [offline([lambda: time.sleep(0.005)] * 3, batch_size=4, seconds=0.15) for _ in range(3)]
    assert rows[0].keys() == COLUMNS
    assert (rows[0]["scenario"], rows[0]["slots"], rows[0]["latency_median_ms"]) == ("offline", 3, None)
    assert max(row["images_per_second"] for row in rows) == pytest.approx(3 * 4 / 0.005, rel=0.15)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_queries_of_equal_duration_wait_for_one_slot_as_an_md1_queue_predicts(clock: Clock, load: float) -> None:
    service = 10e6
    arrivals = np.cumsum(np.random.default_rng(3).exponential(service / load, 30_000)).astype(np.int64)
    starts, ends = serve([clock.query_taking(service / 1e6)], arrivals)
    assert (np.diff(starts) > 0).all()
    assert set(ends - starts) == {int(service)}
    waits = starts - arrivals
    assert waits.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)
    assert np.mean(waits > 20_000) == pytest.approx(load, rel=0.05), "share of arrivals that find the slot busy"
    # Lindley's recursion: a query starts when it arrives or when the slot is free, whichever is later.
    free = 0
    for arrival, start in zip(arrivals.tolist(), starts.tolist(), strict=True):
        assert 0 <= start - max(arrival, free) <= 20_000
        free = start + int(service)


def test_arrivals_are_a_seeded_poisson_process_with_the_target_rate(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules: list[np.ndarray] = []

    def record(slots: object, arrivals: np.ndarray, limit: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        schedules.append(arrivals)
        return arrivals, arrivals + 1_000_000

    monkeypatch.setattr(scenarios, "serve", record)
    for seed in (1, 1, 2):
        row = server([clock.query_taking(1)], 50.0, 5.0, seed=seed, batch_size=2, seconds=40)
        assert row["queries"] == 2000
    assert row["achieved_rate"] == pytest.approx(50, rel=0.1)
    assert (row["target_rate"], row["images_per_second"]) == (50, 2 * row["achieved_rate"])
    assert (schedules[0] == schedules[1]).all()
    assert (schedules[0] != schedules[2]).any()
    assert stats.kstest(np.diff(schedules[0]) / 1e9, "expon", args=(0, 1 / 50)).pvalue > 0.01
    server([clock.query_taking(1)], 50.0, 5.0, seconds=0.1)
    assert len(schedules[-1]) == 662, "p99 needs this many queries, however short the run is"
    server([clock.query_taking(1)], 50.0, 5.0, seconds=40, limit=10)
    assert 400 < len(schedules[-1]) < 600


def test_a_limit_is_kept_only_if_the_upper_bound_of_p99_keeps_it(clock: Clock) -> None:
    # No queue: 1 % of the queries take long. The nearest-rank p99 is short, but so many queries do not prove it.
    row = server([clock.query_taking(*[1] * 110, 8)], 1.0, 5.0, seconds=0, min_queries=1000)
    assert row.keys() == COLUMNS
    assert row["latency_p99_ms"] == pytest.approx(8, abs=0.1)
    assert (row["kept"], row["limit_ms"], row["note"]) == (False, 5, None)
    row = server([clock.query_taking(*[1] * 999, 8)], 1.0, 5.0, seconds=0, min_queries=1000)
    # Another query may have waited for the one that takes 8 ms.
    assert 1 <= row["latency_p99_ms"] < 3
    assert row["kept"]


def test_too_few_queries_do_not_keep_a_limit_and_the_note_says_why(clock: Clock) -> None:
    row = server([clock.query_taking(1)], 10.0, 5.0, seconds=5, min_queries=10)
    assert (row["kept"], row["latency_p99_ms"]) == (False, None)
    assert row["note"] == f"{row['queries']} queries do not support p99, which takes 662"


def test_a_limit_is_not_kept_if_queries_still_wait_when_time_is_up(clock: Clock) -> None:
    row = server([clock.query_taking(10)], 1000.0, 1e6, seconds=10, limit=2)
    assert (row["kept"], row["queries"]) == (False, pytest.approx(200, abs=2))
    assert "queries were still waiting after 2 s" in row["note"]


def test_the_capacity_is_the_highest_rate_that_keeps_the_limit(clock: Clock) -> None:
    limit_ms = 30.0
    capacity, rows = server_capacity([clock.query_taking(10)], limit_ms, 100.0, trials=6, seconds=60, min_queries=5000)
    assert len(rows) == 6
    assert capacity == max(row["target_rate"] for row in rows if row["kept"])
    assert all(row["target_rate"] > capacity for row in rows if not row["kept"])

    def p99(rate: float) -> float:
        arrivals = np.cumsum(np.random.default_rng(0).exponential(1000 / rate, 100_000)).tolist()
        free, latencies = 0.0, []
        for arrival in arrivals:
            free = max(arrival, free) + 10
            latencies.append(free - arrival)
        return percentile(np.array(latencies), 99)

    exact = next(rate for rate in range(99, 1, -1) if p99(rate) <= limit_ms)
    assert 0.85 * exact <= capacity <= 1.02 * exact


def test_a_limit_below_the_service_time_gives_capacity_0_and_the_reason(clock: Clock) -> None:
    capacity, rows = server_capacity([clock.query_taking(10)], 9.0, 100.0, seconds=1)
    assert capacity == 0
    assert [(row["target_rate"], row["achieved_rate"], row["kept"], row.keys()) for row in rows] == [
        (None, None, False, COLUMNS)
    ]
    assert capacity_sentence(rows) == (
        "Server: no rate of queries can keep the limit, a p99 of 9 ms, because one query alone takes longer."
    )
    assert rows[0]["note"] == "no rate keeps the limit: p99 of a query without any other is 10 ms"


def test_the_capacity_is_reported_as_a_sentence_and_never_as_a_rate_of_zero() -> None:
    def rows_of(*rates: tuple[float, bool]) -> list[dict[str, object]]:
        return [{"scenario": "server", "target_rate": rate, "kept": kept, "limit_ms": 12.0} for rate, kept in rates]

    sentence = capacity_sentence(rows_of((50.0, True), (75.0, False), (62.5, True)))
    assert sentence == "Server: 62.5 queries per second is the highest rate tried that kept the limit, a p99 of 12 ms."
    sentence = capacity_sentence(rows_of((50.0, False), (25.0, False)))
    assert (
        sentence == "Server: none of the 2 rates tried, from 25 queries per second on, kept the limit, a p99 of 12 ms."
    )
    assert capacity_sentence([{"scenario": "offline"}]) is None


def test_two_slots_serve_in_parallel_in_order_and_within_1_ms_in_real_time() -> None:
    running, most_running = 0, 0
    lock = threading.Lock()

    def query() -> None:
        nonlocal running, most_running
        with lock:
            running += 1
            most_running = max(most_running, running)
        time.sleep(0.004)
        with lock:
            running -= 1

    arrivals = np.cumsum(np.random.default_rng(0).exponential(4e6, 300)).astype(np.int64)
    starts, ends = serve([query, query], arrivals)
    assert most_running == 2
    free, delays = [0, 0], []
    for arrival, start, end in sorted(zip(arrivals.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        delays.append(start - max(arrival, heapq.heappop(free)))
        heapq.heappush(free, end)
    assert min(delays) > -1_000_000
    assert np.median(delays) < 1_000_000
    assert (starts >= arrivals).all()


def test_waiting_for_arrivals_leaves_the_processor_to_the_model() -> None:
    cpu_seconds: list[float] = []
    serve([lambda: cpu_seconds.append(time.thread_time())], np.arange(1, 61, dtype=np.int64) * 20_000_000)
    assert np.median(np.diff(cpu_seconds)) < 0.001, "CPU seconds used in the 20 ms between two arrivals"


def test_queries_that_sleep_wait_about_as_an_md1_queue_predicts_in_real_time() -> None:
    ratios: list[float] = []
    # On a busy machine threads wake late, so that up to nine runs are made; on a quiet one three are enough.
    for seed in range(9):
        arrivals = np.cumsum(np.random.default_rng(seed).exponential(10e6, 200)).astype(np.int64)
        starts, ends = serve([lambda: time.sleep(0.005)], arrivals)
        free, expected = 0, []
        for arrival, start, end in zip(arrivals.tolist(), starts.tolist(), ends.tolist(), strict=True):
            expected.append(max(free - arrival, 0))
            free = max(free, arrival) + end - start
        ratios.append((starts - arrivals).mean() / np.mean(expected))
        if len(ratios) >= 3 and abs(np.median(ratios) - 1) <= 0.25:
            break
    assert np.median(ratios) == pytest.approx(1, rel=0.25)


def test_an_exception_in_a_query_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve([fail, lambda: None], np.arange(1, 2000, dtype=np.int64) * 1_000_000)
