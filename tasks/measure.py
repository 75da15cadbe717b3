"""The clock: warm-up, sampling, statistics, comparison. It knows no runtime: what is timed is a function.

Percentiles are nearest-rank (NumPy's "inverted_cdf"): each is a sample that was measured, never an interpolation.
"""

from __future__ import annotations

import gc
import math
from array import array
from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Verdict = Literal["faster", "slower", "indistinguishable"]

AGREE = 0.05  # medians of two consecutive warm-up windows may differ by this much
PATIENCE = 4  # warm-up ends after this many times its least duration, agreed or not
WINDOW_CALLS = 3  # least calls a warm-up window
RESOLUTION = 0.01  # two processes of one program differ by about this much for good (memory layout): see `compare`


def warm_up(call: Callable[[], object], seconds: float) -> tuple[float, bool]:
    """Call until `seconds` have passed and the medians of two consecutive windows agree within 5 %.

    A window lasts a quarter of `seconds` and at least 3 calls. Given up after 4 × `seconds` (and two windows).

    Returns
    -------
    spent : seconds
    stable : whether the windows agreed in the end
    """
    medians: list[float] = []
    begin = perf_counter_ns()
    while True:
        window: list[int] = []
        opened = perf_counter_ns()
        while len(window) < WINDOW_CALLS or perf_counter_ns() - opened < seconds / 4 * 1e9:
            start = perf_counter_ns()
            call()
            window.append(perf_counter_ns() - start)
        medians.append(float(np.median(window)))
        spent = (perf_counter_ns() - begin) / 1e9
        if len(medians) < 2:
            continue
        agreed = abs(medians[-1] - medians[-2]) <= AGREE * min(medians[-2:])
        if agreed and spent >= seconds:
            return spent, True
        if spent >= PATIENCE * seconds:
            return spent, False


def measure(call: Callable[[], object], min_seconds: float, min_queries: int) -> np.ndarray:
    """Time every call, one after the other, until both limits are reached: int64 nanoseconds, one a call.

    The garbage collector rests meanwhile. The clock's own part of a sample is under a microsecond.
    """
    samples = array("q")
    keep, clock = samples.append, perf_counter_ns
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        now = clock()
        end = now + int(min_seconds * 1e9)
        while now < end or len(samples) < min_queries:
            start = clock()
            call()
            now = clock()
            keep(now - start)
    finally:
        if collecting:
            gc.enable()
    return np.frombuffer(samples, np.int64).copy()


@cache
def queries_needed(percentile: float, confidence: float = 0.99) -> int:
    """Samples from which a percentile may be reported: 64 for p90, 130 for p95, 662 for p99 at 99 % confidence.

    The least n for which at most one of n independent samples exceeds the true percentile with a probability of at most
    1 - confidence: from then on the second largest sample bounds it. This is where the early stopping of MLPerf's
    LoadGen starts to report (Reddi et al. 2020, and "Early stopping" in mlcommons/inference/loadgen).
    """
    tail, n = 1 - percentile / 100, 2
    while (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) > 1 - confidence:
        n += 1
    return n


def summarise(samples_ns: np.ndarray) -> dict[str, float | None]:
    """The latency columns of the `benchmarks` table, in ms; a percentile that the samples do not support is null."""
    ms = samples_ns / 1e6
    percentiles = {
        f"latency_p{p}_ms": percentile(ms, p) if len(ms) >= queries_needed(p) else None for p in (90, 95, 99)
    }
    # The mean of equal samples may leave their range by a rounding error.
    mean = float(np.clip(ms.mean(), ms.min(), ms.max()))
    return {
        "latency_mean_ms": mean,
        "latency_std_ms": float(ms.std()),
        "latency_min_ms": float(ms.min()),
        "latency_median_ms": percentile(ms, 50),
        **percentiles,
        "latency_max_ms": float(ms.max()),
    }


def percentile(samples: np.ndarray, p: float) -> float:
    """Nearest-rank percentile: the smallest sample that at least p % of the samples do not exceed."""
    return float(np.percentile(samples, p, method="inverted_cdf"))


def compare(
    reference: Sequence[float], candidate: Sequence[float], seed: int = 0
) -> tuple[float, float, float, Verdict]:
    """How many times as fast the candidate is as the reference, from the medians of rounds in which both were visited.

    The ratio is the geometric mean of the rounds' ratios. Its 95 % interval is the wider, at each end, of two: a
    bootstrap over the rounds, and Student's t on the log ratios, because three rounds resampled never leave their own
    range (the bootstrap alone would cover about 3 cases in 4). It is widened by 1 %, because each candidate is one
    process and what its memory layout adds is the same in all its rounds (Mytkowicz et al. 2009, Producing wrong data
    without doing anything obviously wrong). One round has no interval: 0 to infinity.

    Returns
    -------
    ratio, low, high : > 1 where the candidate is the faster one
    verdict : on the candidate; "indistinguishable" where the interval holds 1

    Raises
    ------
    ValueError
        If the two have no, or not the same number of, rounds.
    """
    if not reference or len(reference) != len(candidate):
        raise ValueError(f"rounds must be paired and at least one: got {len(reference)} and {len(candidate)}")
    logs = np.log(np.asarray(reference, np.float64) / np.asarray(candidate, np.float64))
    mean, n = float(logs.mean()), len(logs)
    if n == 1:
        return math.exp(mean), 0.0, math.inf, "indistinguishable"
    drawn = np.random.default_rng(seed).integers(0, n, (10_000, n))
    low, high = np.quantile(logs[drawn].mean(axis=1), (0.025, 0.975))
    half = student_quantile(n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
    low = math.exp(min(low, mean - half) - RESOLUTION)
    high = math.exp(max(high, mean + half) + RESOLUTION)
    verdict: Verdict = "faster" if low > 1 else "slower" if high < 1 else "indistinguishable"
    return math.exp(mean), low, high, verdict


@cache
def student_quantile(freedom: int, p: float = 0.975) -> float:
    """Quantile of Student's t: with t = sqrt(freedom) tan(a), the density of a is cos(a) to the power freedom - 1."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angle).clip(0) ** (freedom - 1)
    cumulative = np.cumsum(density[1:] + density[:-1])
    return math.sqrt(freedom) * math.tan(np.interp(p * cumulative[-1], cumulative, angle[1:]))
