"""How faithful a form of a classifier is to the original, from the scores that both give to classes of the same images.

Scores are logits, or probabilities where the model ends in a softmax: float32, (images, classes).
"""

from __future__ import annotations

import numpy as np

LEAST = 1e-12
"""A probability that was rounded to less is taken for this, because its logarithm counts."""


def _log_probabilities(scores: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Return the logarithms of the classes' probabilities, float64. The original's scores tell which kind they are."""
    scores = scores.astype(np.float64)
    if original.min() >= 0 and np.allclose(original.sum(axis=1), 1, atol=1e-3):
        # Int8 probabilities need not add up to one.
        scores = np.log(np.maximum(scores, LEAST))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergence(original: np.ndarray, scores: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence from the original's probabilities, in nats: the mean over the images."""
    expected, found = _log_probabilities(original, original), _log_probabilities(scores, original)
    return max(0.0, float((np.exp(expected) * (expected - found)).sum(axis=1).mean()))


def expected_drop(original: np.ndarray, scores: np.ndarray) -> float:
    """Return the drop in top-1 that the original's own probabilities foretell, without labels.

    Where the two predict different classes, the original gives the form's class a lower probability than its own. The
    difference, averaged over all images, is the expected drop if these probabilities are right. It is never negative,
    never more than the share of images on which the two differ, and the same flips of a coin that make one classifier
    better than another on a few labelled images do not change it.
    """
    probabilities = np.exp(_log_probabilities(original, original))
    images = np.arange(len(original))
    return float((probabilities.max(axis=1) - probabilities[images, scores.argmax(axis=1)]).mean())
