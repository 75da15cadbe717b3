"""Quality of predictions, from logits (images, classes) and labels (images,): shares in 0..1 and 95 % intervals."""

from __future__ import annotations

import math

import numpy as np

from tasks.measure.seeds import generator

# The 97.5 % quantile of the standard normal distribution.
Z = 1.959963984540054
FEW = 35
"""Fewer images than this resolve no drop of 0.1 in top-1, even if two classifiers agree on all (`smallest_drop`)."""


def predictions(logits: np.ndarray) -> np.ndarray:
    """Return the class with the largest logit for each image; of equal logits, the lower class.

    Raises
    ------
    ValueError
        If a logit is NaN or infinite, because such a row has no largest one.
    """
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ValueError(f"outputs for {bad} of {len(logits)} images are NaN or infinite")
    return logits.argmax(axis=1)


def confidence(logits: np.ndarray) -> np.ndarray:
    """Return the softmax probability of each image's predicted class: float64, (images,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1 / np.exp(shifted).sum(axis=1)


def topk(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of images whose label is among the k classes with the largest logits.

    Classes with equal logits rank by their number, as in `predictions`.
    """
    of_label = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_class = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > of_label) | ((logits == of_label) & lower_class)).sum(axis=1)
    return float((rank < k).mean())


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose predicted class is right."""
    return topk(logits, labels, 1)


def top5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label is among the five classes with the largest logits (or all, if fewer)."""
    return topk(logits, labels, min(5, logits.shape[1]))


def agreement(predicted: np.ndarray, others: np.ndarray) -> float:
    """Return the share of images for which two classifiers predict the same class."""
    return float((predicted == others).mean())


def logit_difference(expected: np.ndarray, actual: np.ndarray) -> float | None:
    """Return the largest difference of a logit from the one expected, over the largest logit that is expected.

    None where all expected logits are zero.
    """
    largest = float(np.abs(expected).max())
    return float(np.abs(actual.astype(np.float64) - expected).max()) / largest if largest else None


def wilson(share: float, images: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of images (Wilson 1927, Probable inference, the law of succession)."""
    centre = share + Z**2 / (2 * images)
    half = Z * np.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    scale = 1 + Z**2 / images
    return min(share, max(0.0, float((centre - half) / scale))), max(share, min(1.0, float((centre + half) / scale)))


def paired_drop(lost: float, mended: float, images: int, z: float = Z) -> tuple[float, float]:
    """Return the 95 % score interval of the drop in top-1 between two classifiers on the same images (Tango 1998).

    Parameters
    ----------
    lost
        Number of images that only the first classifier has right.
    mended
        Number of images that only the second has right. The drop is (lost - mended) / images.
    images
        Number of all images, at least one.
    z
        Quantile of the standard normal distribution that belongs to another confidence. Each end by itself is a
        one-sided limit: 0.84 gives those of 80 %.

    Returns
    -------
    low, high
        Shares in -1..1. Even if the classifiers agree on every image, high is above 0: Z² / (images + Z²).
    """
    return -_highest_drop(mended, lost, images, z), _highest_drop(lost, mended, images, z)


def _highest_drop(lost: float, mended: float, images: int, z: float = Z) -> float:
    """Return the upper end of the interval: the largest drop that the score test does not reject, by bisection."""
    observed = (lost - mended) / images

    def rejected(drop: float) -> bool:
        # The most likely probability, under this drop, that only the second classifier is right (Tango's q21).
        b = (2 * images - lost + mended) * drop - lost - mended
        mending = (math.sqrt(max(b * b + 8 * images * mended * drop * (1 - drop), 0.0)) - b) / (4 * images)
        variance = (2 * mending + drop * (1 - drop)) / images
        return (drop - observed) ** 2 > z**2 * max(variance, 0.0)

    low, high = observed, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high


def smallest_drop(images: int) -> float:
    """Return the smallest drop that this many images can resolve.

    `paired_drop` excludes no smaller one, even if the two classifiers agree on every image.
    """
    return Z**2 / (images + Z**2)


def images_needed(drop: float, differing: float = 0.0) -> int:
    """Return how many images `paired_drop` needs to exclude a drop between two classifiers that are equally good.

    Parameters
    ----------
    drop
        Share of images, above 0.
    differing
        Share of images that only one of the two has right, half of them each.
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
    """Return the occupied cells of the confusion matrix, as label × classes + prediction, and the images in each."""
    return np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)


def _f1(cells: np.ndarray, images: np.ndarray, classes: int) -> float:
    """Return macro F1 from the cells of the confusion matrix, as `_cells` returns them."""
    labels, predicted = np.divmod(cells, classes)
    actual = np.bincount(labels, images, classes)
    predictions_of = np.bincount(predicted, images, classes)
    hit = labels == predicted
    right = np.bincount(labels[hit], images[hit], classes)
    occurring = actual + predictions_of > 0
    return float((2 * right[occurring] / (actual + predictions_of)[occurring]).mean())


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return F1 averaged over the classes that occur in labels or predictions, as scikit-learn's macro average."""
    classes = int(max(labels.max(), predicted.max())) + 1
    return _f1(*_cells(labels, predicted, classes), classes)


def macro_f1_interval(
    labels: np.ndarray, predicted: np.ndarray, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1 over images.

    The percentiles of the resamples are moved by the difference between their mean and the estimate, because resampling
    few images per class raises macro F1 (with 10 images per class by 0.01), so that they might miss the estimate.
    Drawing images with replacement is the same as drawing the cells of the confusion matrix from a multinomial
    distribution, which takes one draw per resample.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    cells, images = _cells(labels, predicted, classes)
    rng = generator(seed)
    share = images / images.sum()
    scores = [_f1(cells, rng.multinomial(images.sum(), share), classes) for _ in range(resamples)]
    estimate = _f1(cells, images, classes)
    low, high = np.quantile(scores, (0.025, 0.975)) + estimate - np.mean(scores)
    return min(estimate, max(0.0, float(low))), max(estimate, min(1.0, float(high)))


def macro_f1_drops(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, images: np.ndarray, seed: int = 0, resamples: int = 1000
) -> tuple[float, np.ndarray]:
    """Return the drop in macro F1 between two classifiers on the same images, and the drops of bootstrap resamples.

    The resamples are moved so that their mean is the drop, as in `macro_f1_interval`.

    Parameters
    ----------
    labels, before, after, images
        One entry per case: the right class, the first classifier's prediction, the second's, and the number of such
        images.
    """
    classes = int(max(labels.max(), before.max(), after.max())) + 1
    first, second = (labels.astype(np.int64) * classes + predicted for predicted in (before, after))
    rng = generator(seed)
    # Single images are drawn, because a multinomial draw is slow where nearly every image is a case by itself.
    case_of_image = np.repeat(np.arange(len(images)), images)

    def drop(counts: np.ndarray) -> float:
        return _f1(first, counts, classes) - _f1(second, counts, classes)

    estimate = drop(images)
    resampled = np.empty(resamples)
    for number in range(resamples):
        drawn = case_of_image[rng.integers(0, len(case_of_image), len(case_of_image))]
        resampled[number] = drop(np.bincount(drawn, minlength=len(images)))
    return estimate, resampled + estimate - resampled.mean()


def class_scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[dict[str, float | None]]:
    """Return one row per class: its images, the images called it, and precision, recall and F1 with 95 % intervals.

    The ends of an interval have the suffixes `_low` and `_high`. Precision and recall are shares, so their interval is
    `wilson`'s. F1 is 2 j / (1 + j), where j is the share of right ones among the images that belong to the class or are
    called it, so its interval is that of j, sent through the same monotone function. Where there is nothing to divide
    by the figures are null: a class that no image is called has no precision.
    """
    actual = np.bincount(labels, minlength=classes)
    called = np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    rows = []
    for n, m, hit in zip(actual.tolist(), called.tolist(), right.tolist(), strict=True):
        row: dict[str, float | None] = {"images": n, "called": m}
        for name, of in (("precision", m), ("recall", n), ("f1", n + m - hit)):
            figures = [hit / of, *wilson(hit / of, of)] if of else [None] * 3
            if name == "f1":
                figures = [j if j is None else 2 * j / (1 + j) for j in figures]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), figures, strict=True))
        rows.append(row)
    return rows


def mcnemar(first: int, second: int) -> float:
    """Return the p-value of the exact McNemar test between two classifiers on the same images.

    `first` and `second` count the images that only one of the two has right. The test is the two-sided binomial test of
    an even split (McNemar 1947; exact form: Fagerland et al. 2013).
    """
    from scipy.special import betainc

    fewer, more = sorted((first, second))
    # The integral is the probability that by chance at most `fewer` of these images go to one of the two. The function
    # scipy.special.bdtr, which is meant for it, is less exact for many images.
    return min(1.0, 2 * float(betainc(more, fewer + 1, 0.5)))


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the quality columns of `evaluations`: top-1 and macro F1 with their 95 % intervals, and top-5."""
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
