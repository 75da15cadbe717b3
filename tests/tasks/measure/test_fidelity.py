"""How faithful a form is: against SciPy, and by simulation against the drop that labels show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from tasks.measure import fidelity, metrics


def noisy(images: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a classifier's logits, those of a form of it, and labels that follow the classifier's probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(images, 10)).astype(np.float32)
    form = (logits + rng.normal(scale=noise, size=logits.shape)).astype(np.float32)
    cumulated = softmax(logits.astype(np.float64), axis=1).cumsum(axis=1)
    labels = (cumulated < rng.random((images, 1))).sum(axis=1)
    return logits, form, labels


def test_the_divergence_is_scipys_relative_entropy_for_logits_and_for_probabilities() -> None:
    logits, form, _ = noisy(200, 0.5)
    probabilities, others = softmax(logits, axis=1), softmax(form, axis=1)
    expected = rel_entr(probabilities, others).sum(axis=1).mean()
    assert fidelity.divergence(logits, form) == pytest.approx(expected, rel=1e-4)
    assert fidelity.divergence(probabilities, others) == pytest.approx(expected, rel=1e-4)
    # Int8 probabilities need not add up to one, and many are zero.
    rounded = np.round(others * 255) / 255
    assert np.isfinite(fidelity.divergence(probabilities, rounded))
    assert fidelity.divergence(logits, logits) == 0


def test_the_expected_drop_is_the_drop_that_many_labels_show() -> None:
    logits, form, labels = noisy(200_000, 1.0)
    drop = metrics.top1(logits, labels) - metrics.top1(form, labels)
    assert drop > 0.02
    assert fidelity.expected_drop(logits, form) == pytest.approx(drop, abs=0.005)


def test_on_few_images_the_expected_drop_varies_less_than_the_drop_by_labels_and_is_never_negative() -> None:
    expected, by_labels = [], []
    for seed in range(200):
        logits, form, labels = noisy(125, 0.3, seed)
        expected.append(fidelity.expected_drop(logits, form))
        by_labels.append(metrics.top1(logits, labels) - metrics.top1(form, labels))
        differ = 1 - metrics.agreement(logits.argmax(1), form.argmax(1))
        assert 0 <= expected[-1] <= differ
    assert min(by_labels) < -0.015, "labels of few images call some forms better than their parent"
    assert np.std(expected) < 0.3 * np.std(by_labels)
    assert np.mean(expected) == pytest.approx(np.mean(by_labels), abs=0.004)
