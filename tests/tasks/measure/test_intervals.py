"""Percentiles and means of samples with their 99 % intervals, and comparisons of candidates over paired rounds."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tasks.measure.intervals import (
    binomial,
    compare,
    mean_interval,
    percentile,
    queries_needed,
    student_quantile,
    summarise,
    summarise_file,
)
from tests.support.programs import command, environment


@pytest.mark.parametrize(("p", "n"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_samples_as_loadgen_asks_for(p: int, n: int) -> None:
    assert queries_needed(p) == n
    assert stats.binom.cdf(1, n, 1 - p / 100) <= 0.01 < stats.binom.cdf(1, n - 1, 1 - p / 100)


@pytest.mark.parametrize("n", [1, 63, 64, 129, 130, 661, 662])
def test_a_percentile_of_too_few_samples_is_null(n: int) -> None:
    columns = summarise(np.arange(1, n + 1) * 1_000_000)
    assert [columns[f"latency_p{p}_ms"] is None for p in (90, 95, 99)] == [n < 64, n < 130, n < 662]
    assert columns["latency_min_ms"] == 1
    assert columns["latency_max_ms"] == n


def test_percentiles_are_nearest_rank_samples() -> None:
    assert percentile(np.array([1.0, 2.0, 3.0, 10.0]), 50) == 2
    assert percentile(np.arange(1.0, 101), 90) == 90


def test_the_mean_of_equal_samples_is_exactly_their_value() -> None:
    columns = summarise(np.full(997, 1_234_567))
    assert columns["latency_min_ms"] == columns["latency_mean_ms"] == columns["latency_max_ms"]


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (64, 0.9), (662, 0.99), (100_000, 0.5), (10_000_000, 0.99)])
def test_binomial_probabilities_equal_scipys(n: int, p: float) -> None:
    counts, cumulative = binomial(n, p)
    assert np.abs(cumulative - stats.binom.cdf(counts, n, p)).max() < 1e-9


def low_value_high(columns: dict[str, float | None], statistic: str) -> tuple[float | None, ...]:
    """Return the lower end, the estimate and the upper end of a statistic such as "median", in ms."""
    return tuple(columns[f"latency_{statistic}{end}_ms"] for end in ("_low", "", "_high"))


def test_the_interval_of_a_percentile_spans_the_ranks_of_the_binomial_distribution() -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 1001))
    columns = summarise(shuffled * 1_000_000)
    for statistic, p in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        low, value, high = low_value_high(columns, statistic)
        assert low is not None and value is not None and high is not None
        # Batches of independent samples may vary a little more than binomially, which widens an interval.
        assert value - 2 * (value - stats.binom.ppf(0.005, 1000, p)) <= low <= stats.binom.ppf(0.005, 1000, p)
        assert high >= stats.binom.ppf(0.995, 1000, p) + 1 or (statistic, high) == ("p99", 1000)


@pytest.mark.parametrize("n", [1, 3, 4, 63, 64, 700])
def test_an_interval_is_null_or_holds_its_estimate(n: int) -> None:
    columns = summarise(np.random.default_rng(n).integers(1_000_000, 2_000_000, n))
    for statistic in ("mean", "median", "p90", "p95", "p99"):
        low, value, high = low_value_high(columns, statistic)
        assert (value is not None and (low or value) <= value <= (high or value)) or (low, high) == (None, None)
    assert (columns["latency_mean_low_ms"] is None) == (n < 4)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_intervals_hold_the_true_value_even_if_consecutive_samples_are_correlated(correlation: float) -> None:
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(("mean", "median", "p90"), 0)
    for _ in range(200):
        steps = rng.normal(size=3000) * math.sqrt(1 - correlation**2)
        level, levels = rng.normal(), []
        for step in steps.tolist():
            level = correlation * level + step
            levels.append(level)
        columns = summarise(np.exp(0.05 * np.array(levels)) * 1e6)
        truths = {"mean": math.exp(0.05**2 / 2), "median": 1.0, "p90": math.exp(0.05 * 1.2815516)}
        for statistic, truth in truths.items():
            low, _, high = low_value_high(columns, statistic)
            assert low is not None and high is not None
            hits[statistic] += low <= truth <= high
    assert min(hits.values()) >= 0.95 * 200, hits


def test_the_interval_of_equal_samples_is_their_value() -> None:
    assert set(low_value_high(summarise(np.full(997, 1_234_567)), "median")) == {1.234567}


def test_the_interval_of_a_mean_does_not_extend_below_zero() -> None:
    assert mean_interval([2.0]) == (2.0, None, None)
    assert mean_interval([1.0, 3.0]) == (2.0, 0.0, pytest.approx(2 + stats.t.ppf(0.995, 1)))


def write_latencies(path: Path, candidates: int, samples: int, mixed: bool = False) -> None:
    """Write this many samples for each candidate; if `mixed`, a row of each candidate in turn."""
    rng = np.random.default_rng(0)
    parts = [
        pl.DataFrame({"query": np.arange(samples), "latency_ms": rng.lognormal(1, 0.1, samples)}).with_columns(
            variant=pl.lit(f"model/train/form-{number // 10}"),
            runtime=pl.lit(f"runtime-{number // 5 % 2}"),
            device=pl.lit("cpu"),
            batch_size=pl.lit(2 ** (number % 5), pl.Int64),
            round=pl.lit(1, pl.Int64),
        )
        for number in range(candidates)
    ]
    table = pl.concat(parts)
    (table.sort("query", maintain_order=True) if mixed else table).write_parquet(path)


@pytest.mark.parametrize("mixed", [False, True])
def test_each_candidate_in_a_file_is_summarised_as_if_it_were_alone(tmp_path: Path, mixed: bool) -> None:
    write_latencies(tmp_path / "latencies.parquet", 12, 700, mixed)
    rows = {
        tuple(row[key] for key in ("variant", "runtime", "device", "batch_size")): row
        for row in summarise_file(tmp_path / "latencies.parquet")
    }
    rng = np.random.default_rng(0)
    samples = [rng.lognormal(1, 0.1, 700) for _ in range(12)]
    assert len(rows) == 12
    row = rows["model/train/form-1", "runtime-0", "cpu", 2]
    assert row["queries"] == 700
    assert row["latency_p99_ms"] == percentile(samples[11], 99)
    assert row["latency_median_low_ms"] == pytest.approx(summarise(samples[11] * 1e6)["latency_median_low_ms"])


@pytest.mark.alone
@pytest.mark.parametrize("candidates", [1, 50])
def test_ten_million_samples_are_summarised_within_10_seconds_and_a_gibibyte(tmp_path: Path, candidates: int) -> None:
    write_latencies(tmp_path / "latencies.parquet", candidates, 10_000_000 // candidates)
    process = subprocess.run(
        command("summarise_samples", tmp_path / "latencies.parquet"),
        check=True,
        text=True,
        capture_output=True,
        env=environment(),
    )
    rows, seconds, added_bytes = json.loads(process.stdout)
    assert rows == candidates
    assert seconds < 10
    assert added_bytes < 2**30


@pytest.mark.parametrize(
    ("freedom", "published"), [(1, 63.65674), (2, 9.92484), (3, 5.84091), (9, 3.24984), (40, 2.70446)]
)
def test_student_quantiles_equal_the_published_table(freedom: int, published: float) -> None:
    assert student_quantile(freedom) == pytest.approx(published, rel=1e-5)


def medians(
    rng: np.random.Generator, rounds: int, noise: float, offset: float = 0.0
) -> tuple[list[float], list[float]]:
    """Return the round medians of two processes of one program.

    `noise` is the standard deviation between rounds, `offset` that of what each process keeps in all rounds.
    """
    logs = rng.normal(0, noise, (2, rounds)) + rng.normal(0, offset, (2, 1))
    return np.exp(logs[0]).tolist(), np.exp(logs[1]).tolist()


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("rounds", [2, 3, 5, 10])
def test_equal_candidates_in_fresh_processes_are_ranked_in_about_1_percent_of_cases(rounds: int, noise: float) -> None:
    rng = np.random.default_rng(rounds)
    ranked = sum(compare(*medians(rng, rounds, noise), fresh=True)[3] != "indistinguishable" for _ in range(400))
    assert ranked <= 0.01 * 400 + 3 * math.sqrt(0.01 * 0.99 * 400)


@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_equal_candidates_in_lasting_processes_are_not_ranked_by_their_offsets(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    cases = [medians(rng, rounds, 0.01, offset=0.005) for _ in range(300)]
    ranked = [sum(compare(*case, fresh=fresh)[3] != "indistinguishable" for case in cases) for fresh in (False, True)]
    assert ranked[0] <= 0.05 * 300
    assert ranked[0] < ranked[1], "without a wider interval the offsets of the processes count as a difference"


@pytest.mark.parametrize(("noise", "rounds"), [(0.005, 3), (0.01, 4), (0.02, 6), (0.03, 8)])
def test_a_candidate_10_percent_slower_is_called_slower_once_there_are_enough_rounds(noise: float, rounds: int) -> None:
    rng = np.random.default_rng(0)

    def slower(rounds: int) -> int:
        cases = (medians(rng, rounds, noise) for _ in range(300))
        return sum(compare(a, [1.1 * x for x in b], fresh=True)[3] == "slower" for a, b in cases)

    assert slower(rounds) >= 0.95 * 300
    assert slower(rounds - 1) < 0.97 * 300


def test_drift_that_hits_both_candidates_alike_does_not_hide_a_difference() -> None:
    drift = np.array([1.0, 1.5, 0.7, 2.0])
    ratio, low, high, verdict = compare((2 * drift).tolist(), (drift * [1.0, 1.01, 0.99, 1.0]).tolist(), 0)
    assert verdict == "faster"
    assert low < ratio < high
    assert ratio == pytest.approx(2, rel=0.01)


def test_swapping_two_candidates_inverts_their_comparison() -> None:
    a, b = [1.0, 1.1, 0.9], [3.0, 3.1, 2.9]
    ratio, low, high, verdict = compare(a, b, 0)
    swapped = compare(b, a, 0)
    assert verdict == "slower"
    assert swapped[3] == "faster"
    assert ratio == pytest.approx(1 / swapped[0])
    assert (low, high) == (pytest.approx(1 / swapped[2], rel=0.01), pytest.approx(1 / swapped[1], rel=0.01))


def test_a_difference_as_small_as_between_processes_of_one_program_ranks_nothing() -> None:
    assert compare([1.005] * 3, [1.0] * 3, 0)[3] == "indistinguishable"
    assert compare([1.02] * 3, [1.0] * 3, 0)[3] == "faster"
    assert compare([1.005, 1.006, 1.005], [1.0] * 3, 0, fresh=True)[3] == "faster"


def test_one_round_ranks_nothing() -> None:
    assert compare([5.0], [1.0], 0) == (pytest.approx(5.0), 0.0, math.inf, "indistinguishable")


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0, 2.0], [1.0])])
def test_rounds_that_are_not_paired_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired"):
        compare(a, b, 0)


def test_disturbed_turns_of_a_candidate_are_outvoted_by_its_other_turns() -> None:
    undisturbed = [[1.0] * 5, [1.0] * 5, [1.0] * 5]
    disturbed = [[1.1, 1.1, 5.0, 1.1, 7.0], [9.0, 1.1, 1.1, 1.1, 1.1], [1.1, 1.1, 3.0, 3.0, 1.1]]
    ratio, _, _, verdict = compare(undisturbed, disturbed, fresh=True)
    assert ratio == pytest.approx(1 / 1.1)
    assert verdict == "slower"


def test_rounds_with_different_numbers_of_turns_are_compared_by_their_medians() -> None:
    assert compare([[2.0, 2.2, 1.8], [2.0]], [[1.0], [1.1, 0.9, 1.0]])[0] == pytest.approx(2)
