"""What samples say: percentiles, their intervals, and which of two candidates is the faster one.

Percentiles are nearest-rank (NumPy's "inverted_cdf"): each is a sample that was measured, never an interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Turns = float | Sequence[float] | np.ndarray
Verdict = Literal["faster", "slower", "indistinguishable"]

# of every interval here
CONFIDENCE = 0.99
# of consecutive samples, at most, from which an interval's width is estimated
BATCHES = 30
# Two processes of one program differ by about this much for good (memory layout: Mytkowicz et al. 2009, Producing wrong
# data without doing anything obviously wrong).
RESOLUTION = 0.01


@cache
def queries_needed(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Samples from which a percentile may be reported: 64 for p90, 130 for p95, 662 for p99 at 99 % confidence.

    The least n for which at most one of n independent samples exceeds the true percentile with a probability of at most
    1 - confidence: from then on the second largest sample bounds it. This is where the early stopping of MLPerf's
    LoadGen starts to report (Reddi et al. 2020, and "Early stopping" in mlcommons/inference/loadgen).
    """
    tail, n = 1 - percentile / 100, 2
    while (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) > 1 - confidence:
        n += 1
    return n


def spread(samples: np.ndarray) -> dict[str, float | None]:
    """Mean, standard deviation and percentiles of samples in ms; a percentile that they do not support is null."""
    return _spread(samples, np.sort(samples))


def _spread(samples: np.ndarray, ordered: np.ndarray) -> dict[str, float | None]:
    n = len(ordered)
    tails = {f"p{p}_ms": _nearest_rank(ordered, p) if n >= queries_needed(p) else None for p in (90, 95, 99)}
    return {
        # The mean of equal samples may leave their range by a rounding error.
        "mean_ms": float(np.clip(samples.mean(), ordered[0], ordered[-1])),
        "std_ms": float(samples.std()),
        "min_ms": float(ordered[0]),
        "median_ms": _nearest_rank(ordered, 50),
        **tails,
        "max_ms": float(ordered[-1]),
    }


def summarise(samples_ns: np.ndarray) -> dict[str, float | None]:
    """The latency columns of the `benchmarks` table, in ms, from samples in the order in which they were measured.

    A percentile that the samples do not support is null. Each mean and percentile has its 99 % interval (`..._low_ms`,
    `..._high_ms`; null where the samples do not support one), which allows for consecutive samples being alike:

    - mean: Student's t on the means of up to 30 batches of consecutive samples (batch means: Law 2015, Simulation
      Modeling and Analysis, 9.5.3)
    - median and percentiles: two samples, whose ranks the binomial distribution gives without any assumption on the
      samples' distribution (Conover 1999, Practical Nonparametric Statistics, 3.2), for as many independent samples as
      these are worth: their number divided by the design effect (Woodruff 1952; Kish 1965) over the same batches

    They are about this run's processes; what another process would show is for `compare` to say.
    """
    return _summarise(samples_ns / 1e6)


def _summarise(ms: np.ndarray) -> dict[str, float | None]:
    ordered = np.sort(ms)
    found = _spread(ms, ordered)
    mean, half = found["mean_ms"], _half_interval(_batch_means(ms))
    assert mean is not None
    found |= {
        "mean_low_ms": None if half is None else max(mean - half, 0.0),
        "mean_high_ms": None if half is None else mean + half,
    }
    for key, p in (("median", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        value = found[f"{key}_ms"]
        ends = (None, None) if value is None else _percentile_interval(ms, ordered, p, value)
        found |= dict(zip((f"{key}_low_ms", f"{key}_high_ms"), ends, strict=True))
    return {f"latency_{key}": value for key, value in found.items()}


def _percentile_interval(
    samples: np.ndarray, ordered: np.ndarray, p: int, value: float
) -> tuple[float | None, float | None]:
    n, below = len(samples), samples <= value
    share, means = float(np.count_nonzero(below)) / n, _batch_means(below)
    # the variance of the batches' shares, were samples independent
    expected = share * (1 - share) * len(means) / n
    effect = float(means.var(ddof=1)) / expected if expected and len(means) > 1 else 1.0
    worth = int(n / max(effect, 1.0))
    counts, cumulative = binomial(worth, p / 100)
    low = int(counts[0] + np.searchsorted(cumulative, (1 - CONFIDENCE) / 2, side="right"))
    high = int(counts[0] + np.searchsorted(cumulative, (1 + CONFIDENCE) / 2)) + 1
    return (
        float(ordered[(low - 1) * n // worth]) if low >= 1 else None,
        float(ordered[-(-high * n // worth) - 1]) if high <= worth else None,
    )


def _batch_means(samples: np.ndarray) -> np.ndarray:
    """Means of up to BATCHES batches of consecutive samples, each at least as long as there are batches."""
    n = len(samples)
    count = min(BATCHES, math.isqrt(n))
    starts = np.arange(count) * n // count
    return np.add.reduceat(samples, starts, dtype=np.float64) / np.diff(starts, append=n)


@lru_cache(64)
def binomial(n: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """(Counts, probability of at most so many) of n trials with probability p, but for counts that do not happen."""
    reach = 12 * math.sqrt(n * p * (1 - p)) + 20
    counts = np.arange(max(0, int(n * p - reach)), min(n, int(n * p + reach)) + 1)
    # of each probability to the one before
    ratios = (n - counts[:-1]) / counts[1:] * (p / (1 - p))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    odds = np.exp(logs - logs.max())
    return counts, np.cumsum(odds) / odds.sum()


def percentile(samples: np.ndarray, p: float) -> float:
    """Nearest-rank percentile: the smallest sample that at least p % of the samples do not exceed."""
    return float(np.percentile(samples, p, method="inverted_cdf"))


def _nearest_rank(ordered: np.ndarray, p: int) -> float:
    return float(ordered[-(-len(ordered) * p // 100) - 1])


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float | None, float | None]:
    """(Mean, low, high) of what is never negative: 99 % interval by Student's t; null ends for a single value."""
    found = np.asarray(values, np.float64)
    mean, half = float(found.mean()), _half_interval(found)
    return (mean, None, None) if half is None else (mean, max(mean - half, 0.0), mean + half)


def _half_interval(values: np.ndarray) -> float | None:
    n = len(values)
    return student_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None


def summarise_file(path: Path) -> list[dict[str, Any]]:
    """`summarise` for each candidate in a Parquet file with the columns of the `latencies` table.

    Rows of a candidate must be in the order of measurement; candidates may follow one another (as burnish writes them;
    each row is then read once) or be mixed. No more than the rows between a candidate's first and last are held.

    Returns
    -------
    rows : variant, runtime, device, batch_size, queries, and `summarise`'s columns
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
        first, last, queries = group.pop("first"), group.pop("last"), group["queries"]
        part = table.slice(first, last - first + 1)
        if queries <= last - first:
            part = part.filter(*(pl.col(key) == group[key] for key in keys))
        samples = part.select("latency_ms").collect(engine="streaming")["latency_ms"].to_numpy()
        rows.append(group | _summarise(samples))
    return rows


def compare(
    reference: Sequence[Turns], candidate: Sequence[Turns], seed: int = 0, *, fresh: bool = False
) -> tuple[float, float, float, Verdict]:
    """How many times as fast the candidate is as the reference, from the medians of turns that both had in rounds.

    A round's ratio is the median of its turns' ratios: what disturbs the machine for longer than a turn is in both, and
    what disturbs one turn is outvoted. The ratio is the geometric mean of the rounds'. Its 99 % interval is the wider,
    at each end, of two: a bootstrap over the rounds, and Student's t on the log ratios, because three rounds resampled
    never leave their own range (the bootstrap alone would cover about 3 cases in 4). One round has no interval: 0 to
    infinity.

    Parameters
    ----------
    reference, candidate : medians of the turns of each round (or one of the whole round); the turns of a round pair
    where
        both had as many
    fresh : whether each round had its own fresh process of both. If not, what a process's memory layout adds is the
    same
        in all rounds, so that they do not show it, and the interval is widened by 1 %.

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
    logs = np.array([_log_ratio(np.log(a), np.log(b)) for a, b in zip(reference, candidate, strict=True)])
    mean, half = float(logs.mean()), _half_interval(logs)
    if half is None:
        return math.exp(mean), 0.0, math.inf, "indistinguishable"
    drawn = np.random.default_rng(seed).integers(0, len(logs), (10_000, len(logs)))
    low, high = np.quantile(logs[drawn].mean(axis=1), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    unseen = 0.0 if fresh else RESOLUTION
    low = math.exp(min(low, mean - half) - unseen)
    high = math.exp(max(high, mean + half) + unseen)
    verdict: Verdict = "faster" if low > 1 else "slower" if high < 1 else "indistinguishable"
    return math.exp(mean), low, high, verdict


def _log_ratio(reference: np.ndarray, candidate: np.ndarray) -> float:
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
    """What `compare` takes, from a row of `benchmarks`: the medians of each round's turns."""
    return np.split(np.asarray(row["turn_medians_ms"]), np.cumsum(row["round_turns"])[:-1])


@cache
def student_quantile(freedom: int, p: float = (1 + CONFIDENCE) / 2) -> float:
    """Quantile of Student's t: with t = sqrt(freedom) tan(a), the density of a is cos(a) to the power freedom - 1."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angle).clip(0) ** (freedom - 1)
    cumulative = np.cumsum(density[1:] + density[:-1])
    return math.sqrt(freedom) * math.tan(np.interp(p * cumulative[-1], cumulative, angle[1:]))
