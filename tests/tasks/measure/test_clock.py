"""The clock that times single queries, the throughput of parallel slots, and warm-up, which ends when windows agree."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tasks.measure import clock as timing
from tasks.measure.clock import rate, throughput, warm_up, warm_up_slots

pytestmark = pytest.mark.alone


class Clock:
    """A clock that only `call` moves: each call takes the next of `durations`, in nanoseconds."""

    def __init__(self, durations: Iterator[int]) -> None:
        self.now, self.durations, self.calls = 0, durations, 0

    def __call__(self) -> int:
        return self.now

    def call(self) -> None:
        self.now += next(self.durations)
        self.calls += 1


@pytest.fixture
def simulated_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[int]], Clock]:
    def install(durations: Iterator[int]) -> Clock:
        clock = Clock(durations)
        monkeypatch.setattr(timing, "perf_counter_ns", clock)
        return clock

    return install


def constant(value: int) -> Iterator[int]:
    while True:
        yield value


def falling() -> Iterator[int]:
    """Yield durations that fall by 3 % with each call, so that windows never agree."""
    value = 100_000_000.0
    while True:
        yield int(value)
        value = max(value * 0.97, 1000)


def test_measuring_reaches_both_the_minimum_time_and_the_minimum_number_of_queries(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(constant(1_000_000))
    assert len(timing.measure(clock.call, 0.5, 10)) == 500
    assert len(timing.measure(clock.call, 0.005, 10)) == 10


def test_every_sample_is_kept_in_order(simulated_clock: Callable[[Iterator[int]], Clock]) -> None:
    clock = simulated_clock(iter([5, 7, 3]))
    samples = timing.measure(clock.call, 0, 3)
    assert samples.dtype == np.int64
    assert samples.tolist() == [5, 7, 3]


def test_timing_costs_less_than_20_microseconds_per_query() -> None:
    call_times: list[float] = []
    samples = timing.measure(lambda: call_times.append(time.perf_counter()), 0.05, 1000)
    assert np.median(np.diff(call_times)) < 20e-6
    assert np.median(samples) < 20_000


def test_the_garbage_collector_is_off_while_timing_and_on_again_even_after_an_error() -> None:
    enabled = []
    timing.measure(lambda: enabled.append(gc.isenabled()), 0, 2)
    assert enabled == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timing.measure(lambda: 1 / 0, 0, 1)
    assert gc.isenabled()


def test_warm_up_of_steady_queries_lasts_little_more_than_its_shortest_time(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(constant(1_000_000))
    seconds, stable, _ = warm_up(clock.call, 0.5)
    assert stable
    assert 0.5 <= seconds < 0.7


def test_warm_up_continues_until_two_consecutive_windows_agree(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(iter([100_000_000, 80_000_000, 60_000_000, 40_000_000, 30_000_000] + [10_000_000] * 1000))
    seconds, stable, _ = warm_up(clock.call, 0.1)
    assert stable
    assert 0.1 < seconds <= 0.4
    clock = simulated_clock(iter([30_000_000] * 3 + [10_000_000] * 3 + [9_900_000] * 1000))
    assert warm_up(clock.call, 0.05)[:2] == (pytest.approx(0.1497, abs=1e-3), True)


def test_warm_up_that_never_settles_ends_and_is_reported_as_unstable(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(falling())
    seconds, stable, _ = warm_up(clock.call, 0.5)
    assert not stable
    assert 2.0 <= seconds < 3.0


def test_warm_up_of_slow_queries_takes_two_windows_of_three_queries(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(constant(10_000_000_000))
    assert warm_up(clock.call, 0.5)[:2] == (60.0, True)
    assert clock.calls == 6


def test_a_limit_ends_measuring_with_the_query_that_crosses_it(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    clock = simulated_clock(constant(1_000_000))
    assert len(timing.measure(clock.call, 5, 10_000, limit=0.0205)) == 21
    assert len(timing.measure(clock.call, 5, 10_000, limit=0)) == 1
    assert len(timing.measure(clock.call, 0.01, 4, limit=1)) == 10


def test_a_limit_ends_warm_up_with_the_query_that_crosses_it(simulated_clock: Callable[[Iterator[int]], Clock]) -> None:
    clock = simulated_clock(constant(1_000_000_000))
    assert warm_up(clock.call, 0.5, limit=0.1)[:2] == (1.0, False)
    assert warm_up(clock.call, 0.5, limit=3.5)[:2] == (4.0, True)
    clock = simulated_clock(iter([4_000_000_000] * 3 + [1_000_000_000] * 9))
    assert warm_up(clock.call, 0.5, limit=13.5)[:2] == (14.0, False)


def test_warm_up_uses_the_second_half_of_a_short_limit_for_windows_to_agree(
    simulated_clock: Callable[[Iterator[int]], Clock],
) -> None:
    # The queries of the third of four windows are disturbed.
    clock = simulated_clock(iter([1_000_000] * 126 + [1_200_000] * 53 + [1_000_000] * 1000))
    assert warm_up(clock.call, 0.5, limit=0.5) == (pytest.approx(0.3156, abs=1e-3), True, 1_000_000)


def sleeping_call(seconds: float) -> Callable[[], object]:
    return lambda: time.sleep(seconds)


def test_throughput_counts_only_queries_that_end_while_all_slots_are_busy() -> None:
    completions = throughput([sleeping_call(0.004), sleeping_call(0.05)], 0.08, 10)
    assert completions.dtype == np.int64
    assert (np.diff(completions) >= 0).all()
    assert 0.08e9 < completions[-1] < 0.1e9, (
        "the last query that counts is the first slot's, before the other slot's second one"
    )
    assert 12 <= len(completions) <= 21


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_the_rate_is_the_number_of_slots_divided_by_the_duration_of_a_query(slots: int) -> None:
    ratios = []
    for _ in range(5):
        durations: list[float] = []

        def call(durations: list[float] = durations) -> None:
            start = time.perf_counter()
            time.sleep(0.005)
            durations.append(time.perf_counter() - start)

        ratios.append(rate(throughput([call] * slots, 0.1, 10)) * np.mean(durations) / slots)
    assert np.median(ratios) == pytest.approx(1, rel=0.08)


def test_a_rate_is_exact_whether_slots_complete_together_or_in_turn() -> None:
    together = np.sort(np.concatenate([np.arange(1, 9) * 1000 + slot for slot in range(3)]))
    assert rate(together[together <= 8000]) == pytest.approx(3e6, rel=1e-3)
    in_turn = np.arange(1, 25) * 333
    assert rate(in_turn) == pytest.approx(3e6, rel=0.01)


def test_every_slot_makes_two_queries_even_past_its_limit() -> None:
    calls = [0, 0]

    def call(slot: int) -> None:
        calls[slot] += 1

    completions = throughput([lambda: call(0), lambda: call(1)], 10, 10**9, limit=0)
    assert min(calls) == 2
    assert 2 <= len(completions) <= sum(calls)
    assert rate(completions) > 0


def test_an_exception_in_a_slot_ends_all_slots_and_is_raised() -> None:
    def fail() -> None:
        time.sleep(0.02)
        raise ZeroDivisionError

    before = threading.active_count()
    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        throughput([sleeping_call(0.001), fail, sleeping_call(0.001)], 30, 10)
    assert time.perf_counter() - start < 5
    assert gc.isenabled()
    assert threading.active_count() == before


@pytest.fixture
def small_heap() -> Iterator[None]:
    """A heap as small as in a candidate's process.

    After other tests the garbage collection at the start of each window would take half a second.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_warm_up_of_slots_ends_when_the_rates_of_two_windows_agree(small_heap: None) -> None:
    warm_ups = [warm_up_slots([sleeping_call(0.002)] * 2, 0.1) for _ in range(3)]
    assert any(stable for _, stable, _ in warm_ups)
    assert all(0.1 <= seconds < 1 for seconds, _, _ in warm_ups)
    seconds, stable, _ = warm_up_slots([sleeping_call(0.02)] * 2, 10, limit=0.03)
    assert 0.03 <= seconds < 0.5
    assert not stable
