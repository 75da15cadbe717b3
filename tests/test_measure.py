from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy import stats

from tasks import measure
from tasks.measure import compare, percentile, queries_needed, student_quantile, summarise, warm_up


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
        monkeypatch.setattr(measure, "perf_counter_ns", clock)
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


@pytest.mark.parametrize(("p", "n"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_samples_as_loadgen_asks_for(p: int, n: int) -> None:
    assert queries_needed(p) == n
    assert stats.binom.cdf(1, n, 1 - p / 100) <= 0.01 < stats.binom.cdf(1, n - 1, 1 - p / 100)


@pytest.mark.parametrize("n", [1, 63, 64, 129, 130, 661, 662])
def test_unsupported_percentiles_are_null(n: int) -> None:
    columns = summarise(np.arange(1, n + 1) * 1_000_000)
    assert [columns[f"latency_p{p}_ms"] is None for p in (90, 95, 99)] == [n < 64, n < 130, n < 662]
    assert columns["latency_min_ms"] == 1
    assert columns["latency_max_ms"] == n


def test_percentiles_are_nearest_rank() -> None:
    assert percentile(np.array([1.0, 2.0, 3.0, 10.0]), 50) == 2
    assert percentile(np.arange(1.0, 101), 90) == 90


def test_the_mean_of_equal_samples_stays_between_them() -> None:
    columns = summarise(np.full(997, 1_234_567))
    assert columns["latency_min_ms"] == columns["latency_mean_ms"] == columns["latency_max_ms"]


def test_measuring_reaches_both_limits(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000))
    assert len(measure.measure(clock.call, 0.5, 10)) == 500
    assert len(measure.measure(clock.call, 0.005, 10)) == 10


def test_every_sample_is_kept_in_order(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(iter([5, 7, 3]))
    samples = measure.measure(clock.call, 0, 3)
    assert samples.dtype == np.int64
    assert samples.tolist() == [5, 7, 3]


def test_timing_itself_costs_less_than_20_microseconds_a_query() -> None:
    called: list[float] = []
    samples = measure.measure(lambda: called.append(time.perf_counter()), 0.05, 1000)
    assert np.median(np.diff(called)) < 20e-6
    assert np.median(samples) < 20_000


def test_the_garbage_collector_rests_while_timing_and_is_restored_even_after_an_error() -> None:
    seen = []
    measure.measure(lambda: seen.append(gc.isenabled()), 0, 2)
    assert seen == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure.measure(lambda: 1 / 0, 0, 1)
    assert gc.isenabled()


def test_warm_up_lasts_its_least_time_when_steady(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(1_000_000))
    seconds, stable = warm_up(clock.call, 0.5)
    assert stable
    assert 0.5 <= seconds < 0.7


def test_warm_up_goes_on_until_windows_agree(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(iter([100_000_000, 80_000_000, 60_000_000, 40_000_000, 30_000_000] + [10_000_000] * 1000))
    seconds, stable = warm_up(clock.call, 0.1)
    assert stable
    assert 0.1 < seconds <= 0.4
    clock = clocked(iter([30_000_000] * 3 + [10_000_000] * 3 + [9_900_000] * 1000))
    assert warm_up(clock.call, 0.05) == (pytest.approx(0.1497, abs=1e-3), True)


def test_warm_up_that_never_settles_ends_and_says_so(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(falling())
    seconds, stable = warm_up(clock.call, 0.5)
    assert not stable
    assert 2.0 <= seconds < 3.0


def test_warm_up_of_slow_calls_takes_two_windows_of_three(clocked: Callable[[Iterator[int]], Clock]) -> None:
    clock = clocked(forever(10_000_000_000))
    assert warm_up(clock.call, 0.5) == (60.0, True)
    assert clock.calls == 6


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 40])
def test_student_quantiles_equal_scipys(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


@pytest.mark.parametrize("rounds", [2, 3, 5, 10])
def test_equal_candidates_are_ranked_in_at_most_one_case_of_twenty(rounds: int) -> None:
    rng = np.random.default_rng(1)
    cases = np.exp(rng.normal(0, 0.05, (400, 2, rounds)))
    ranked = sum(compare(a.tolist(), b.tolist(), 0)[3] != "indistinguishable" for a, b in cases)
    assert ranked <= 0.05 * 400 + 3 * math.sqrt(0.05 * 0.95 * 400)


def test_drift_that_hits_both_alike_does_not_hide_a_difference() -> None:
    drift = np.array([1.0, 1.5, 0.7, 2.0])
    ratio, low, high, verdict = compare((2 * drift).tolist(), (drift * [1.0, 1.01, 0.99, 1.0]).tolist(), 0)
    assert verdict == "faster"
    assert low < ratio < high
    assert ratio == pytest.approx(2, rel=0.01)


def test_the_comparison_is_symmetric() -> None:
    a, b = [1.0, 1.1, 0.9], [3.0, 3.1, 2.9]
    ratio, low, high, verdict = compare(a, b, 0)
    back = compare(b, a, 0)
    assert verdict == "slower"
    assert back[3] == "faster"
    assert ratio == pytest.approx(1 / back[0])
    assert (low, high) == (pytest.approx(1 / back[2], rel=0.01), pytest.approx(1 / back[1], rel=0.01))


def test_a_difference_below_what_two_processes_of_one_program_show_is_no_difference() -> None:
    assert compare([1.005] * 3, [1.0] * 3, 0)[3] == "indistinguishable"
    assert compare([1.02] * 3, [1.0] * 3, 0)[3] == "faster"


def test_one_round_ranks_nothing() -> None:
    assert compare([5.0], [1.0], 0) == (pytest.approx(5.0), 0.0, math.inf, "indistinguishable")


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0, 2.0], [1.0])])
def test_rounds_that_are_no_pairs_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired"):
        compare(a, b, 0)
