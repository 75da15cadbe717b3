"""Statistics of latencies: percentiles, their intervals, and which of two candidates is the faster one.

Percentiles are nearest-rank (NumPy's "inverted_cdf"): each is a sample that was measured, never an interpolation.

Of SciPy only `scipy.special` is used, and imported where it is needed (0.15 s). `scipy.stats` takes another 0.35 s,
which every process that measures would pay; its bootstrap and its Wilson interval would replace two and five lines of
ours. The binomial distribution would need it too, because that of `scipy.special` is off by 0.001 at ten million
samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.measure.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Turns = float | Sequence[float] | np.ndarray
Verdict = Literal["faster", "slower", "indistinguishable"]

# Confidence of every interval in this file.
CONFIDENCE = 0.99
# An interval's width is estimated from at most this many batches of consecutive samples.
BATCHES = 30
# Two processes of one program differ in speed by about this share for as long as they live, because of their memory
# layouts (Mytkowicz et al. 2009, Producing wrong data without doing anything obviously wrong).
RESOLUTION = 0.01


@cache
def queries_needed(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Return from how many samples on a percentile may be reported: 64 for p90, 130 for p95, 662 for p99.

    It is the least n for which the probability that at most one of n independent samples exceeds the true percentile is
    at most 1 - confidence. From then on the second largest sample is an upper bound of it. This is where the early
    stopping of MLPerf's LoadGen starts to report (Reddi et al. 2020, and "Early stopping" in
    mlcommons/inference/loadgen).
    """
    tail = 1 - percentile / 100
    n = 2
    while (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) > 1 - confidence:
        n += 1
    return n


def spread(samples: np.ndarray) -> dict[str, float | None]:
    """Return mean, standard deviation and percentiles of samples in ms. Percentiles of too few samples are null."""
    return _spread(samples, np.sort(samples))


def _spread(samples: np.ndarray, ordered: np.ndarray) -> dict[str, float | None]:
    n = len(ordered)
    tails = {f"p{p}_ms": _nearest_rank(ordered, p) if n >= queries_needed(p) else None for p in (90, 95, 99)}
    return {
        # By a rounding error the mean of equal samples may lie outside their range.
        "mean_ms": float(np.clip(samples.mean(), ordered[0], ordered[-1])),
        "std_ms": float(samples.std()),
        "min_ms": float(ordered[0]),
        "median_ms": _nearest_rank(ordered, 50),
        **tails,
        "max_ms": float(ordered[-1]),
    }


def summarise(samples_ns: np.ndarray) -> dict[str, float | None]:
    """Return the latency columns of the `benchmarks` table, in ms, from samples in the order of their measurement.

    A percentile that the samples do not support is null. The mean and each percentile have a 99 % interval
    (`..._low_ms`, `..._high_ms`; null where the samples do not support one), which allows for consecutive samples being
    alike:

    - mean: Student's t on the means of up to 30 batches of consecutive samples (batch means: Law 2015, Simulation
      Modeling and Analysis, 9.5.3)
    - median and percentiles: two of the samples. The binomial distribution gives their ranks without any assumption on
      the samples' distribution (Conover 1999, Practical Nonparametric Statistics, 3.2). Samples that are alike count as
      fewer: their number is divided by the design effect (Woodruff 1952; Kish 1965) over the same batches.

    The intervals hold for the processes of this run. How far another process may differ is part of `compare`.
    """
    return _summarise(samples_ns / 1e6)


def _summarise(ms: np.ndarray) -> dict[str, float | None]:
    ordered = np.sort(ms)
    columns = _spread(ms, ordered)
    mean = columns["mean_ms"]
    half = _half_interval(_batch_means(ms))
    assert mean is not None
    columns |= {
        "mean_low_ms": None if half is None else max(mean - half, 0.0),
        "mean_high_ms": None if half is None else mean + half,
    }
    for key, p in (("median", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        value = columns[f"{key}_ms"]
        low, high = (None, None) if value is None else _percentile_interval(ms, ordered, p, value)
        columns |= {f"{key}_low_ms": low, f"{key}_high_ms": high}
    return {f"latency_{key}": value for key, value in columns.items()}


def _percentile_interval(
    samples: np.ndarray, ordered: np.ndarray, p: int, value: float
) -> tuple[float | None, float | None]:
    """Return the ends of the interval of the percentile `p`, whose estimate is `value` (see `summarise`)."""
    n = len(samples)
    below = samples <= value
    share = float(np.count_nonzero(below)) / n
    means = _batch_means(below)
    # The variance that the batches' shares would have if samples were independent.
    expected = share * (1 - share) * len(means) / n
    effect = float(means.var(ddof=1)) / expected if expected and len(means) > 1 else 1.0
    independent = int(n / max(effect, 1.0))
    counts, cumulative = binomial(independent, p / 100)
    low = int(counts[0] + np.searchsorted(cumulative, (1 - CONFIDENCE) / 2, side="right"))
    high = int(counts[0] + np.searchsorted(cumulative, (1 + CONFIDENCE) / 2)) + 1
    return (
        float(ordered[(low - 1) * n // independent]) if low >= 1 else None,
        float(ordered[-(-high * n // independent) - 1]) if high <= independent else None,
    )


def _batch_means(samples: np.ndarray) -> np.ndarray:
    """Return the means of up to BATCHES batches of consecutive samples, none shorter than the number of batches."""
    n = len(samples)
    count = min(BATCHES, math.isqrt(n))
    starts = np.arange(count) * n // count
    return np.add.reduceat(samples, starts, dtype=np.float64) / np.diff(starts, append=n)


@lru_cache(64)
def binomial(n: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of successes in n trials with probability p, and for each the probability of at most that many.

    Counts more than 12 standard deviations from the mean are left out.
    """
    reach = 12 * math.sqrt(n * p * (1 - p)) + 20
    counts = np.arange(max(0, int(n * p - reach)), min(n, int(n * p + reach)) + 1)
    # The ratio of each count's probability to that of the count before.
    ratios = (n - counts[:-1]) / counts[1:] * (p / (1 - p))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    odds = np.exp(logs - logs.max())
    return counts, np.cumsum(odds) / odds.sum()


def percentile(samples: np.ndarray, p: float) -> float:
    """Return the nearest-rank percentile: the smallest sample that at least p % of the samples do not exceed."""
    return float(np.percentile(samples, p, method="inverted_cdf"))


def _nearest_rank(ordered: np.ndarray, p: int) -> float:
    return float(ordered[-(-len(ordered) * p // 100) - 1])


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float | None, float | None]:
    """Return the mean of values that are never negative, with its 99 % interval by Student's t.

    A single value has no interval, and both its ends are None.
    """
    samples = np.asarray(values, np.float64)
    mean = float(samples.mean())
    half = _half_interval(samples)
    return (mean, None, None) if half is None else (mean, max(mean - half, 0.0), mean + half)


def _half_interval(values: np.ndarray) -> float | None:
    """Return half the width of the 99 % interval of the values' mean, by Student's t. A single value has none."""
    n = len(values)
    return student_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None


def summarise_file(path: Path) -> list[dict[str, Any]]:
    """Apply `summarise` to each candidate in a Parquet file with the columns of the `latencies` table.

    The rows of a candidate must be in the order of measurement. Candidates may follow one another, as burnish writes
    them, or be mixed; only the rows between a candidate's first and last are in memory at once.

    Returns
    -------
    rows
        One per candidate and batch size: variant, runtime, device, batch_size, queries and the columns of `summarise`.
    """
    import polars as pl

    keys = ["variant", "runtime", "device", "batch_size"]
    table = pl.scan_parquet(path)
    groups = (
        table.select(keys)
        .with_row_index("row")
        .group_by(keys)
        .agg(pl.col("row").min().alias("first"), pl.col("row").max().alias("last"), pl.len().alias("queries"))
        .sort("first")
        .collect(engine="streaming")
    )
    rows = []
    for group in groups.iter_rows(named=True):
        first = group.pop("first")
        last = group.pop("last")
        part = table.slice(first, last - first + 1)
        # Rows of other candidates lie in between.
        if group["queries"] <= last - first:
            part = part.filter(*(pl.col(key) == group[key] for key in keys))
        samples = part.select("latency_ms").collect(engine="streaming")["latency_ms"].to_numpy()
        rows.append(group | _summarise(samples))
    return rows


def compare(
    reference: Sequence[Turns], candidate: Sequence[Turns], seed: int = 0, *, fresh: bool = False
) -> tuple[float, float, float, Verdict]:
    """Return how many times as fast the candidate is as the reference, from the medians of turns in the same rounds.

    A round's ratio is the median of the ratios of its turns: what disturbs the machine for longer than a turn is in
    both sides of a ratio, and what disturbs a single turn is outvoted. The result is the geometric mean over the
    rounds. Its 99 % interval is at each end the wider of two: a bootstrap over the rounds, and Student's t on the
    logarithms of the ratios. The bootstrap alone would hold the truth in only about 3 of 4 cases, because three rounds,
    resampled, never leave their own range. With one round the interval is 0 to infinity.

    Parameters
    ----------
    reference, candidate
        For each round the median latencies of its turns, or one median of the whole round. Turns are paired where both
        had the same number of them in a round.
    seed
        Seed of the bootstrap.
    fresh
        Whether each round had fresh processes of both. If not, the influence of a process's memory layout is the same
        in all rounds and does not show in them, so the interval is widened by 1 %.

    Returns
    -------
    ratio, low, high
        Above 1 where the candidate is the faster one.
    verdict
        What the candidate is: "indistinguishable" where the interval holds 1.

    Raises
    ------
    ValueError
        If the two have no, or not the same number of, rounds.
    """
    if not reference or len(reference) != len(candidate):
        raise ValueError(f"rounds must be paired and at least one: got {len(reference)} and {len(candidate)}")
    logs = np.array([_log_ratio(np.log(a), np.log(b)) for a, b in zip(reference, candidate, strict=True)])
    mean, half = float(logs.mean()), _half_interval(logs)
    if half is None:
        return math.exp(mean), 0.0, math.inf, "indistinguishable"
    drawn = generator(seed).integers(0, len(logs), (10_000, len(logs)))
    low, high = np.quantile(logs[drawn].mean(axis=1), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    unseen = 0.0 if fresh else RESOLUTION
    low = math.exp(min(low, mean - half) - unseen)
    high = math.exp(max(high, mean + half) + unseen)
    verdict: Verdict = "faster" if low > 1 else "slower" if high < 1 else "indistinguishable"
    return math.exp(mean), low, high, verdict


def _log_ratio(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Return one round's log ratio, from the logarithms of its turns' medians."""
    if reference.shape == candidate.shape:
        return float(np.median(reference - candidate))
    return float(np.median(reference) - np.median(candidate))


@dataclass(frozen=True)
class Rounds:
    """The rounds in which one candidate was measured at one batch size."""

    turns: Sequence[Turns]
    """One entry per round, as `compare` takes them: the medians of its turns, or one figure. Smaller is faster."""
    fresh: bool
    """Whether each round had a fresh process of the candidate."""


def rounds_of(row: Mapping[str, Any], processes: int) -> Rounds:
    """Return the rounds of a row of `benchmarks` or `throughputs`, which were spread over `processes` processes."""
    if "turn_medians_ms" in row:
        figures: Sequence[Turns] = turns(row)
    else:
        figures = [1 / rate for rate in row["round_images_per_second"]]
    return Rounds(figures, fresh=processes == len(figures))


def compare_rounds(
    reference: Rounds | None, candidate: Rounds | None
) -> tuple[float, float, float | None, Verdict] | None:
    """Return what `compare` says of two candidates, with None for an upper end that is infinite (after one round).

    Return None where their rounds do not pair: one of the two was not measured, or not in every round.
    """
    if reference is None or candidate is None or len(reference.turns) != len(candidate.turns):
        return None
    fresh = reference.fresh and candidate.fresh
    ratio, low, high, verdict = compare(reference.turns, candidate.turns, fresh=fresh)
    return ratio, low, (high if math.isfinite(high) else None), verdict


def turns(row: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the medians of each round's turns from a row of `benchmarks`, as `compare` takes them."""
    return np.split(np.asarray(row["turn_medians_ms"]), np.cumsum(row["round_turns"])[:-1])


@cache
def student_quantile(freedom: int, p: float = (1 + CONFIDENCE) / 2) -> float:
    """Return the quantile `p` of Student's t distribution with `freedom` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))
