"""Metrics of classification and their intervals, against scikit-learn, SciPy and simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_recall_fscore_support, top_k_accuracy_score

from tasks.measure import metrics

RNG = np.random.default_rng(0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_macro_f1_equals_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    assert metrics.macro_f1(labels, predicted) == pytest.approx(
        f1_score(labels, predicted, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_top_1_and_top_5_equal_scikit_learns_even_with_fewer_classes_than_k(classes: int) -> None:
    logits, labels = RNG.normal(size=(200, classes)).astype(np.float32), RNG.integers(0, classes, 200)
    for k, value in ((1, metrics.top1(logits, labels)), (5, metrics.top5(logits, labels))):
        scores = logits if classes > 2 else logits[:, 1] - logits[:, 0]
        expected = 1.0 if k >= classes else top_k_accuracy_score(labels, scores, k=k, labels=range(classes))
        assert value == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_top_1_is_the_share_of_right_predictions_even_if_logits_tie(images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.integers(0, 3, (images, classes)).astype(np.float32), rng.integers(0, classes, images)
    assert metrics.top1(logits, labels) == pytest.approx((metrics.predictions(logits) == labels).mean())
    assert metrics.top1(logits, labels) <= metrics.top5(logits, labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = np.zeros((5, 3), np.float32)
    logits[[1, 4], 0] = bad
    with pytest.raises(ValueError, match="2 of 5 images"):
        metrics.predictions(logits)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (7, 10), (349, 360), (1, 1)])
def test_the_wilson_interval_equals_scipys_and_holds_the_share(right: int, images: int) -> None:
    low, high = metrics.wilson(right / images, images)
    expected = stats.binomtest(right, images).proportion_ci(method="wilson")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))
    assert 0 <= low <= right / images <= high <= 1


def test_the_macro_f1_interval_equals_that_of_resampled_images() -> None:
    labels = RNG.integers(0, 5, 400)
    predicted = np.where(RNG.random(400) < 0.8, labels, RNG.integers(0, 5, 400))
    resamples = [RNG.integers(0, 400, 400) for _ in range(1000)]
    scores = np.array([f1_score(labels[rows], predicted[rows], average="macro") for rows in resamples])
    low, high = metrics.macro_f1_interval(labels, predicted)
    scores += -scores.mean() + metrics.macro_f1(labels, predicted)
    assert low == pytest.approx(np.quantile(scores, 0.025), abs=0.01)
    assert high == pytest.approx(np.quantile(scores, 0.975), abs=0.01)
    assert (low, high) == metrics.macro_f1_interval(labels, predicted)


def test_the_macro_f1_interval_of_a_thousand_classes_takes_seconds_and_holds_the_estimate() -> None:
    labels = RNG.integers(0, 1000, 10_000)
    predicted = np.where(RNG.random(10_000) < 0.7, labels, RNG.integers(0, 1000, 10_000))
    begin = time.perf_counter()
    low, high = metrics.macro_f1_interval(labels, predicted)
    assert time.perf_counter() - begin < 10
    assert low < metrics.macro_f1(labels, predicted) < high


def test_confidence_is_the_softmax_of_the_predicted_class_even_for_large_logits() -> None:
    logits = RNG.normal(size=(50, 7)).astype(np.float32) * 300
    assert metrics.confidence(logits) == pytest.approx(softmax(logits.astype(np.float64), axis=1).max(axis=1))


def test_the_difference_of_logits_is_relative_to_the_largest_one_expected() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    assert metrics.logit_difference(expected, expected) == 0
    assert metrics.logit_difference(expected, expected + np.float32(0.5)) == 0.125
    assert metrics.logit_difference(np.zeros((1, 2)), expected[:1]) is None, "there is nothing to compare with"


def test_agreement_is_the_share_of_equal_predictions() -> None:
    assert metrics.agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_the_macro_f1_interval_of_a_faultless_classifier_is_1_to_1() -> None:
    labels = np.arange(30) % 3
    assert metrics.macro_f1_interval(labels, labels) == (1.0, 1.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_class_scores_equal_scikit_learns_within_their_intervals_or_are_null(
    pairs: list[tuple[int, int]],
) -> None:
    labels, predicted = np.array(pairs).T
    rows = metrics.class_scores(labels, predicted, 7)
    expected = precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=0)
    for row, *figures, images in zip(rows, *expected, strict=True):
        assert row["images"] == images
        assert (row["precision"] is None, row["recall"] is None) == (row["called"] == 0, images == 0)
        for name, figure in zip(("precision", "recall", "f1"), figures, strict=True):
            if row[name] is not None:
                low, high = row[f"{name}_low"], row[f"{name}_high"]
                assert row[name] == pytest.approx(figure) and 0 <= low <= row[name] <= high <= 1 and low < high


def test_about_95_percent_of_the_f1_intervals_of_a_class_hold_the_true_f1() -> None:
    """Of 2,000 samples of 150 images, from 92 % to 98 % of the intervals hold the F1 of the population."""
    # Shares of images: of the class and called it, of the class and missed, of others and called it, and all the rest.
    shares = np.array([0.25, 0.05, 0.08, 0.62])
    truth = 2 * shares[0] / (2 * shares[0] + shares[1] + shares[2])
    hits = 0
    for counts in np.random.default_rng(1).multinomial(150, shares, 2000):
        labels, predicted = np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)
        row = metrics.class_scores(labels, predicted, 2)[1]
        hits += row["f1_low"] <= truth <= row["f1_high"]  # type: ignore[operator]
    assert 0.92 < hits / 2000 < 0.98


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 9), (12, 12), (400, 480)])
def test_mcnemar_equals_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert metrics.mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
