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


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (64, 0.9), (662, 0.99), (100_000, 0.5), (10_000_000, 0.99)])
def test_binomial_probabilities_equal_scipys(n: int, p: float) -> None:
    counts, cumulative = binomial(n, p)
    assert np.abs(cumulative - stats.binom.cdf(counts, n, p)).max() < 1e-9


def intervals(columns: dict[str, float | None], of: str) -> tuple[float | None, ...]:
    return tuple(columns[f"latency_{of}{end}_ms"] for end in ("_low", "", "_high"))


def test_the_ranks_of_a_percentiles_interval_are_the_binomial_distributions() -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 1001))
    columns = summarise(shuffled * 1_000_000)
    for of, p in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        low, value, high = intervals(columns, of)
        assert low is not None and value is not None and high is not None
        # Batches of independent samples may vary a little more than binomially, which widens an interval.
        assert value - 2 * (value - stats.binom.ppf(0.005, 1000, p)) <= low <= stats.binom.ppf(0.005, 1000, p)
        assert high >= stats.binom.ppf(0.995, 1000, p) + 1 or (of, high) == ("p99", 1000)


@pytest.mark.parametrize("n", [1, 3, 4, 63, 64, 700])
def test_an_interval_is_null_or_holds_its_figure(n: int) -> None:
    columns = summarise(np.random.default_rng(n).integers(1_000_000, 2_000_000, n))
    for of in ("mean", "median", "p90", "p95", "p99"):
        low, value, high = intervals(columns, of)
        assert (value is not None and (low or value) <= value <= (high or value)) or (low, high) == (None, None)
    assert (columns["latency_mean_low_ms"] is None) == (n < 4)


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_intervals_hold_the_truth_also_where_consecutive_samples_are_alike(alike: float) -> None:
    rng = np.random.default_rng(0)
    held = dict.fromkeys(("mean", "median", "p90"), 0)
    for _ in range(200):
        steps = rng.normal(size=3000) * math.sqrt(1 - alike**2)
        level, levels = rng.normal(), []
        for step in steps.tolist():
            level = alike * level + step
            levels.append(level)
        columns = summarise(np.exp(0.05 * np.array(levels)) * 1e6)
        truths = {"mean": math.exp(0.05**2 / 2), "median": 1.0, "p90": math.exp(0.05 * 1.2815516)}
        for of, truth in truths.items():
            low, _, high = intervals(columns, of)
            assert low is not None and high is not None
            held[of] += low <= truth <= high
    assert min(held.values()) >= 0.95 * 200, held


def test_an_interval_of_equal_samples_is_that_sample() -> None:
    assert set(intervals(summarise(np.full(997, 1_234_567)), "median")) == {1.234567}


def test_a_mean_of_what_is_never_negative_has_no_negative_interval() -> None:
    assert mean_interval([2.0]) == (2.0, None, None)
    assert mean_interval([1.0, 3.0]) == (2.0, 0.0, pytest.approx(2 + stats.t.ppf(0.995, 1)))


def latencies(path: Path, candidates: int, each: int, mixed: bool = False) -> None:
    rng = np.random.default_rng(0)
    parts = [
        pl.DataFrame({"query": np.arange(each), "latency_ms": rng.lognormal(1, 0.1, each)}).with_columns(
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
def test_a_file_of_many_candidates_is_summarised_as_each_alone(tmp_path: Path, mixed: bool) -> None:
    latencies(tmp_path / "latencies.parquet", 12, 700, mixed)
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
    latencies(tmp_path / "latencies.parquet", candidates, 10_000_000 // candidates)
    found = subprocess.run(
        command("summarise_samples", tmp_path / "latencies.parquet"),
        check=True,
        text=True,
        capture_output=True,
        env=environment(),
    )
    rows, seconds, added = json.loads(found.stdout)
    assert rows == candidates
    assert seconds < 10
    assert added < 2**30


@pytest.mark.parametrize(
    ("freedom", "published"), [(1, 63.65674), (2, 9.92484), (3, 5.84091), (9, 3.24984), (40, 2.70446)]
)
def test_student_quantiles_equal_the_published_table(freedom: int, published: float) -> None:
    assert student_quantile(freedom) == pytest.approx(published, rel=1e-5)


def medians(
    rng: np.random.Generator, rounds: int, noise: float, offset: float = 0.0
) -> tuple[list[float], list[float]]:
    """Round medians of one program, visited twice a round; each of the two processes has its own offset for good."""
    logs = rng.normal(0, noise, (2, rounds)) + rng.normal(0, offset, (2, 1))
    return np.exp(logs[0]).tolist(), np.exp(logs[1]).tolist()


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("rounds", [2, 3, 5, 10])
def test_equal_candidates_in_fresh_processes_are_ranked_in_about_one_case_of_a_hundred(
    rounds: int, noise: float
) -> None:
    rng = np.random.default_rng(rounds)
    ranked = sum(compare(*medians(rng, rounds, noise), fresh=True)[3] != "indistinguishable" for _ in range(400))
    assert ranked <= 0.01 * 400 + 3 * math.sqrt(0.01 * 0.99 * 400)


@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_the_same_two_processes_in_all_rounds_are_not_ranked_by_their_offsets(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    cases = [medians(rng, rounds, 0.01, offset=0.005) for _ in range(300)]
    ranked = [sum(compare(*case, fresh=fresh)[3] != "indistinguishable" for case in cases) for fresh in (False, True)]
    assert ranked[0] <= 0.05 * 300
    assert ranked[0] < ranked[1], "without the widening their offsets are taken for a difference"


@pytest.mark.parametrize(("noise", "rounds"), [(0.005, 3), (0.01, 4), (0.02, 6), (0.03, 8)])
def test_ten_percent_slower_is_called_slower_from_so_many_rounds_on(noise: float, rounds: int) -> None:
    rng = np.random.default_rng(0)

    def slower(rounds: int) -> int:
        cases = (medians(rng, rounds, noise) for _ in range(300))
        return sum(compare(a, [1.1 * x for x in b], fresh=True)[3] == "slower" for a, b in cases)

    assert slower(rounds) >= 0.95 * 300
    assert slower(rounds - 1) < 0.97 * 300


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
    assert compare([1.005, 1.006, 1.005], [1.0] * 3, 0, fresh=True)[3] == "faster"


def test_one_round_ranks_nothing() -> None:
    assert compare([5.0], [1.0], 0) == (pytest.approx(5.0), 0.0, math.inf, "indistinguishable")


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0, 2.0], [1.0])])
def test_rounds_that_are_no_pairs_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired"):
        compare(a, b, 0)


def test_what_disturbs_some_turns_of_one_candidate_is_outvoted_by_the_others() -> None:
    calm = [[1.0] * 5, [1.0] * 5, [1.0] * 5]
    hit = [[1.1, 1.1, 5.0, 1.1, 7.0], [9.0, 1.1, 1.1, 1.1, 1.1], [1.1, 1.1, 3.0, 3.0, 1.1]]
    ratio, _, _, verdict = compare(calm, hit, fresh=True)
    assert ratio == pytest.approx(1 / 1.1)
    assert verdict == "slower"


def test_rounds_of_different_numbers_of_turns_are_compared_by_their_medians() -> None:
    assert compare([[2.0, 2.2, 1.8], [2.0]], [[1.0], [1.1, 0.9, 1.0]])[0] == pytest.approx(2)
