"""Shared by the quantizers: where to cut a tensor's range, found from the histogram of its values.

A histogram has an even number of bins of equal width, and zero in its middle. A threshold is a number of bins on either
side of zero: values beyond it are taken for the threshold itself.
"""

from __future__ import annotations

import numpy as np

BINS = 2048
"""Bins on either side of zero, as in TensorRT's calibration (Migacz 2017, 8-bit inference with TensorRT)."""
PERCENTILE = 99.99
"""Share of the values within the range, in percent (Wu et al. 2020, Integer quantization for deep learning)."""
STRIDE = 16
"""Thresholds are tried in steps of so many bins, which are less than 1 % of the range."""
SHORTEST = 128
"""The smallest threshold that is tried, in bins: TensorRT's number of levels."""


def magnitudes(counts: np.ndarray) -> np.ndarray:
    """Return the histogram of absolute values: int64, (BINS,)."""
    return counts[BINS:] + counts[:BINS][::-1]


def percentile(counts: np.ndarray) -> int:
    """Return the threshold within which `PERCENTILE` of the absolute values are."""
    shares = np.cumsum(magnitudes(counts)) / counts.sum()
    return int(np.searchsorted(shares, PERCENTILE / 100)) + 1


def entropy(counts: np.ndarray) -> int:
    """Return the threshold at which the quantized absolute values diverge least from the original ones.

    The divergence is Kullback and Leibler's, as in TensorRT (Migacz 2017) and NVIDIA's pytorch-quantization. A tensor
    without negative values has twice as many levels for the positive ones.
    """
    levels = SHORTEST if counts[:BINS].any() else 2 * SHORTEST
    histogram = magnitudes(counts).astype(float)
    # Zeros are represented exactly, and after a ReLU they are most values: they would hide the others.
    histogram[0] = histogram[1]
    tried = range(levels, BINS + 1, STRIDE)
    return min(tried, key=lambda threshold: _divergence(histogram, threshold, levels), default=BINS)


def _divergence(histogram: np.ndarray, threshold: int, levels: int) -> float:
    """Return the divergence of a histogram that is cut and quantized from the same that is only cut, in nats."""
    cut = histogram[:threshold].copy()
    present = cut > 0
    level = np.arange(threshold) * levels // threshold
    totals = np.bincount(level, cut, levels)
    occupied = np.bincount(level, present, levels)
    means = totals / np.maximum(occupied, 1)
    quantized = np.where(present, means[level], 0)
    # What lies beyond the threshold counts as its last bin, before and not after quantizing.
    outliers = histogram[threshold:].sum()
    cut[-1] += outliers
    if not cut.sum() or not quantized.sum():
        return float("inf")
    expected = cut / cut.sum()
    got = quantized / (quantized.sum() + outliers)
    if (got[expected > 0] == 0).any():
        return float("inf")
    known = expected > 0
    return float((expected[known] * np.log(expected[known] / got[known])).sum())


def squared_error(counts: np.ndarray) -> int:
    """Return the threshold at which rounding and cutting together cause the smallest mean squared error.

    It is searched for as in Choukroun et al. 2019, Low-bit quantization of neural networks for efficient inference.
    """
    centres = np.arange(len(counts)) - BINS + 0.5
    occupied = np.flatnonzero(counts)
    lowest = min(int(occupied[0]) - BINS, 0)
    highest = max(int(occupied[-1]) - BINS + 1, 0)
    thresholds = range(SHORTEST, BINS + 1, STRIDE)

    def error(threshold: int) -> float:
        low = max(lowest, -threshold)
        high = min(highest, threshold)
        step = (high - low) / 255
        zero = round(-low / step)
        quantized = (np.clip(np.rint(centres / step) + zero, 0, 255) - zero) * step
        # Zero is represented exactly, and the values in the bin beside it are mostly zeros.
        return float((counts * (centres - quantized) ** 2).sum())

    return min(thresholds, key=error)
