"""Count and measure decoded images, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._arrays import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 4 << 20
"""Images are processed in chunks of at most this many bytes, unless one image has more."""


def chunks(images: np.ndarray, count: int) -> Iterator[slice]:
    """Yield slices that together cover the first `count` rows, each of at most `CHUNK_BYTES` or one image."""
    step = max(1, CHUNK_BYTES // images[0].size)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def moments(images: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel of images[rows], for pixels scaled to 0..1.

    They are computed from histograms of the 256 values: exactly, and independently of the order of the rows.
    """
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for chunk in chunks(images, len(rows)):
        pixels = images[rows[chunk]]
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    # The mean of a channel that has one value everywhere is exactly that value, so that its deviation is exactly 0.
    mean = np.where(counts.max(axis=1) == total, values[counts.argmax(axis=1)], mean)
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean.tolist(), np.sqrt(variance).tolist()


def duplicates(digests: list[bytes], splits: np.ndarray) -> tuple[list[int], list[int]]:
    """Count the duplicates in each split: images with the same pixels, and so the same digest, as an earlier one.

    Returns
    -------
    Per split, the number of images that equal an earlier one of the same split and none of an earlier split; and the
    number that equal an image of an earlier split.
    """
    earlier: set[bytes] = set()
    within = []
    across = []
    for number in range(len(SPLITS)):
        of_split = [digest for digest, split in zip(digests, splits, strict=True) if split == number]
        new = [digest for digest in of_split if digest not in earlier]
        across.append(len(of_split) - len(new))
        within.append(len(new) - len(set(new)))
        earlier.update(new)
    return within, across
