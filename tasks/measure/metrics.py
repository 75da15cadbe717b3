"""Prediction quality from logits (images, classes) and labels (images,): shares in 0..1 and their 95 % intervals."""

from __future__ import annotations

import math

import numpy as np

from tasks.measure.seeds import generator

# standard normal quantile of 97.5 %
Z = 1.959963984540054
FEW = 35
"""Fewer images than these resolve no drop of 0.1 in top-1, even where not one of them differs (`smallest_drop`)."""


def predictions(logits: np.ndarray) -> np.ndarray:
    """First class of each image; of equal logits the lower class.

    Raises
    ------
    ValueError
        If a logit is NaN or infinite: such a row has no first class.
    """
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ValueError(f"outputs for {bad} of {len(logits)} images are NaN or infinite")
    return logits.argmax(axis=1)


def confidence(logits: np.ndarray) -> np.ndarray:
    """Softmax probability of the first class, float64 (images,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1 / np.exp(shifted).sum(axis=1)


def topk(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose label is among the first k classes; equal logits rank by class, as in `predictions`."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return float((rank < k).mean())


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose first class is right."""
    return topk(logits, labels, 1)


def top5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose label is among the first five classes (all of them, where there are fewer)."""
    return topk(logits, labels, min(5, logits.shape[1]))


def agreement(predicted: np.ndarray, others: np.ndarray) -> float:
    """Share of images with the same first class."""
    return float((predicted == others).mean())


def wilson(share: float, images: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927, Probable inference, the law of succession)."""
    centre = share + Z**2 / (2 * images)
    half = Z * np.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    scale = 1 + Z**2 / images
    return min(share, max(0.0, float((centre - half) / scale))), max(share, min(1.0, float((centre + half) / scale)))


def paired_drop(lost: float, mended: float, images: int) -> tuple[float, float]:
    """95 % score interval of a drop in top-1 between two classifiers on the same images (Tango 1998).

    Parameters
    ----------
    lost, mended : images that the first classifier alone, or the second alone, has right; the drop is
        (lost - mended) / images
    images : all images, at least one

    Returns
    -------
    low, high : shares in -1..1. They differ also where no image does: high is then Z² / (images + Z²).
    """
    return -_highest_drop(mended, lost, images), _highest_drop(lost, mended, images)


def _highest_drop(lost: float, mended: float, images: int) -> float:
    """The largest drop that the score test does not reject: the end of the interval, by bisection."""
    observed = (lost - mended) / images

    def rejected(drop: float) -> bool:
        # Probability that the second classifier alone is right, the most likely one under this drop (Tango's q21).
        b = (2 * images - lost + mended) * drop - lost - mended
        mending = (math.sqrt(max(b * b + 8 * images * mended * drop * (1 - drop), 0.0)) - b) / (4 * images)
        variance = (2 * mending + drop * (1 - drop)) / images
        return (drop - observed) ** 2 > Z**2 * max(variance, 0.0)

    low, high = observed, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high


def smallest_drop(images: int) -> float:
    """The smallest drop that so many images can resolve: `paired_drop` excludes no smaller one, even if no image
    differs."""
    return Z**2 / (images + Z**2)


def images_needed(drop: float, differing: float = 0.0) -> int:
    """Images from which `paired_drop` excludes a drop between two classifiers that are equally good.

    Parameters
    ----------
    drop : share, above 0
    differing : share of images that one of the two alone has right, as many as the other
    """
    few, many = 0, 1
    while _highest_drop(differing * many / 2, differing * many / 2, many) > drop:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        enough = _highest_drop(differing * middle / 2, differing * middle / 2, middle) <= drop
        few, many = (few, middle) if enough else (middle, many)
    return many


def _cells(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Occupied cells of the confusion matrix, numbered label × classes + prediction, and their images."""
    return np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)


def _f1(cells: np.ndarray, images: np.ndarray, classes: int) -> float:
    labels, predicted = np.divmod(cells, classes)
    actual = np.bincount(labels, images, classes)
    called = np.bincount(predicted, images, classes)
    hit = labels == predicted
    right = np.bincount(labels[hit], images[hit], classes)
    seen = actual + called > 0
    return float((2 * right[seen] / (actual + called)[seen]).mean())


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """F1 averaged over the classes that occur in the labels or the predictions (scikit-learn's macro average)."""
    classes = int(max(labels.max(), predicted.max())) + 1
    return _f1(*_cells(labels, predicted, classes), classes)


def macro_f1_interval(
    labels: np.ndarray, predicted: np.ndarray, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval of macro F1 over images: percentiles, moved so that the resamples' mean is the estimate.

    Resampling few images a class raises macro F1 (10 a class: by 0.01); unmoved percentiles may miss the estimate.
    Drawing images with replacement is drawing the confusion matrix's cells from a multinomial: one draw a resample.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    cells, images = _cells(labels, predicted, classes)
    rng, share = generator(seed), images / images.sum()
    scores = [_f1(cells, rng.multinomial(images.sum(), share), classes) for _ in range(resamples)]
    estimate = _f1(cells, images, classes)
    low, high = np.quantile(scores, (0.025, 0.975)) + estimate - np.mean(scores)
    return min(estimate, max(0.0, float(low))), max(estimate, min(1.0, float(high)))


def class_scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[dict[str, float | None]]:
    """Of each class: images, images called it, precision, recall and F1, each with its 95 % interval (`_low`, `_high`).

    Precision and recall are shares, so theirs is `wilson`'s. F1 = 2 j / (1 + j), where j is the share of the right ones
    among the images that are or are called the class: its interval is that of j, sent through the same monotone
    function. Null where there is nothing to divide by: a class never called has no precision.
    """
    actual, called = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    rows = []
    for n, m, hit in zip(actual.tolist(), called.tolist(), right.tolist(), strict=True):
        row: dict[str, float | None] = {"images": n, "called": m}
        for name, of in (("precision", m), ("recall", n), ("f1", n + m - hit)):
            found = [hit / of, *wilson(hit / of, of)] if of else [None] * 3
            if name == "f1":
                found = [j if j is None else 2 * j / (1 + j) for j in found]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        rows.append(row)
    return rows


def mcnemar(first: int, second: int) -> float:
    """p of the exact McNemar test: two classifiers on the same images; `first`, `second`: images that one alone has
    right.

    Two-sided binomial test of an even split (McNemar 1947; exact form: Fagerland et al. 2013).
    """
    # Importing scipy.special takes 0.15 s, and the report alone needs it.
    from scipy.special import betainc

    fewer, more = sorted((first, second))
    # Probability that at most `fewer` of all these images go to one side by chance. SciPy's own binomial function,
    # bdtr, is less exact for many images.
    return min(1.0, 2 * float(betainc(more, fewer + 1, 0.5)))


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The quality columns of `evaluations`: top-1, top-5 and macro F1 with their 95 % intervals."""
    predicted = predictions(logits)
    share = top1(logits, labels)
    low, high = wilson(share, len(labels))
    f1_low, f1_high = macro_f1_interval(labels, predicted)
    return {
        "top1": share,
        "top1_low": low,
        "top1_high": high,
        "top5": top5(logits, labels),
        "macro_f1": macro_f1(labels, predicted),
        "macro_f1_low": f1_low,
        "macro_f1_high": f1_high,
    }
