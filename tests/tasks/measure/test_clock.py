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
    """A clock that only calls move: each call takes the next of `durations` (ns), the last one for ever."""

    def __init__(self, durations: Iterator[int]) -> None:
        self.now, self.durations, self.calls = 0, durations, 0

    def __call__(self) -> int:
        return self.now

    def call(self) -> None:
        self.now += next(self.durations)
        self.calls += 1


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[int]], Clock]:
    def install(durations: Iterator[int]) -> Clock:
        clock = Clock(durations)
        monkeypatch.setattr(timing, "perf_counter_ns", clock)
        return clock

    return install


def forever(value: int) -> Iterator[int]:
    while True:
        yield value


def falling() -> Iterator[int]:
    value = 100_000_000.0
    while True:
        yield int(value)
        value = max(value * 0.97, 1000)


def test_measuring_reaches_both_limits(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000))
    assert len(timing.measure(clock.call, 0.5, 10)) == 500
    assert len(timing.measure(clock.call, 0.005, 10)) == 10


def test_every_sample_is_kept_in_order(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(iter([5, 7, 3]))
    samples = timing.measure(clock.call, 0, 3)
    assert samples.dtype == np.int64
    assert samples.tolist() == [5, 7, 3]


def test_timing_itself_costs_less_than_20_microseconds_a_query() -> None:
    called: list[float] = []
    samples = timing.measure(lambda: called.append(time.perf_counter()), 0.05, 1000)
    assert np.median(np.diff(called)) < 20e-6
    assert np.median(samples) < 20_000


def test_the_garbage_collector_rests_while_timing_and_is_restored_even_after_an_error() -> None:
    seen = []
    timing.measure(lambda: seen.append(gc.isenabled()), 0, 2)
    assert seen == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timing.measure(lambda: 1 / 0, 0, 1)
    assert gc.isenabled()


def test_warm_up_lasts_its_least_time_when_steady(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000))
    seconds, stable, _ = warm_up(clock.call, 0.5)
    assert stable
    assert 0.5 <= seconds < 0.7


def test_warm_up_goes_on_until_windows_agree(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(iter([100_000_000, 80_000_000, 60_000_000, 40_000_000, 30_000_000] + [10_000_000] * 1000))
    seconds, stable, _ = warm_up(clock.call, 0.1)
    assert stable
    assert 0.1 < seconds <= 0.4
    clock = clocked(iter([30_000_000] * 3 + [10_000_000] * 3 + [9_900_000] * 1000))
    assert warm_up(clock.call, 0.05)[:2] == (pytest.approx(0.1497, abs=1e-3), True)


def test_warm_up_that_never_settles_ends_and_says_so(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(falling())
    seconds, stable, _ = warm_up(clock.call, 0.5)
    assert not stable
    assert 2.0 <= seconds < 3.0


def test_warm_up_of_slow_calls_takes_two_windows_of_three(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(10_000_000_000))
    assert warm_up(clock.call, 0.5)[:2] == (60.0, True)
    assert clock.calls == 6


def test_a_limit_ends_measuring_with_the_query_that_crosses_it(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000))
    assert len(timing.measure(clock.call, 5, 10_000, limit=0.0205)) == 21
    assert len(timing.measure(clock.call, 5, 10_000, limit=0)) == 1
    assert len(timing.measure(clock.call, 0.01, 4, limit=1)) == 10


def test_a_limit_ends_warm_up_with_the_query_that_crosses_it(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000_000))
    assert warm_up(clock.call, 0.5, limit=0.1)[:2] == (1.0, False)
    assert warm_up(clock.call, 0.5, limit=3.5)[:2] == (4.0, True)
    clock = clocked(iter([4_000_000_000] * 3 + [1_000_000_000] * 9))
    assert warm_up(clock.call, 0.5, limit=13.5)[:2] == (14.0, False)


def test_a_short_limit_leaves_half_of_itself_for_windows_to_agree(clocked: Callable[[Iterator[int]], Clock]) -> None:
    # disturbed in the third of four windows
    clock = clocked(iter([1_000_000] * 126 + [1_200_000] * 53 + [1_000_000] * 1000))
    assert warm_up(clock.call, 0.5, limit=0.5) == (pytest.approx(0.3156, abs=1e-3), True, 1_000_000)


def sleeper(seconds: float) -> Callable[[], object]:
    return lambda: time.sleep(seconds)


def test_throughput_counts_only_while_all_slots_are_busy() -> None:
    completions = throughput([sleeper(0.004), sleeper(0.05)], 0.08, 10)
    assert completions.dtype == np.int64
    assert (np.diff(completions) >= 0).all()
    assert 0.08e9 < completions[-1] < 0.1e9, "the first slot's last query, before the other slot's second one"
    assert 12 <= len(completions) <= 21


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_the_rate_is_the_number_of_slots_over_the_time_a_call_takes(slots: int) -> None:
    ratios = []
    for _ in range(5):
        took: list[float] = []

        def call(took: list[float] = took) -> None:
            start = time.perf_counter()
            time.sleep(0.005)
            took.append(time.perf_counter() - start)

        ratios.append(rate(throughput([call] * slots, 0.1, 10)) * np.mean(took) / slots)
    assert np.median(ratios) == pytest.approx(1, rel=0.08)


def test_a_rate_is_exact_however_slots_are_in_phase() -> None:
    together = np.sort(np.concatenate([np.arange(1, 9) * 1000 + slot for slot in range(3)]))
    assert rate(together[together <= 8000]) == pytest.approx(3e6, rel=1e-3)
    apart = np.arange(1, 25) * 333
    assert rate(apart) == pytest.approx(3e6, rel=0.01)


def test_every_slot_has_two_queries_even_past_its_limit() -> None:
    calls = [0, 0]

    def call(slot: int) -> None:
        calls[slot] += 1

    completions = throughput([lambda: call(0), lambda: call(1)], 10, 10**9, limit=0)
    assert min(calls) == 2
    assert 2 <= len(completions) <= sum(calls)
    assert rate(completions) > 0


def test_an_exception_in_a_slot_ends_all_and_is_raised() -> None:
    def fail() -> None:
        time.sleep(0.02)
        raise ZeroDivisionError

    before = threading.active_count()
    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        throughput([sleeper(0.001), fail, sleeper(0.001)], 30, 10)
    assert time.perf_counter() - start < 5
    assert gc.isenabled()
    assert threading.active_count() == before


@pytest.fixture
def small_heap() -> Iterator[None]:
    """As in a candidate's process: else a collection, one a window, takes half a second after other tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_warming_up_slots_ends_when_two_windows_rates_agree(small_heap: None) -> None:
    settled = [warm_up_slots([sleeper(0.002)] * 2, 0.1) for _ in range(3)]
    assert any(stable for _, stable, _ in settled)
    assert all(0.1 <= seconds < 1 for seconds, _, _ in settled)
    seconds, stable, _ = warm_up_slots([sleeper(0.02)] * 2, 10, limit=0.03)
    assert 0.03 <= seconds < 0.5
    assert not stable
