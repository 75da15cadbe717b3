"""What is counted and measured of decoded images, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 4 << 20


def chunks(images: np.ndarray, count: int) -> Iterator[slice]:
    """Slices of the first `count` rows, of `CHUNK_BYTES` each."""
    step = max(1, CHUNK_BYTES // images[0].size)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def moments(images: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images[rows], pixels scaled to 0..1.

    From histograms of the 256 values: exact, in bounded memory, and the same in whatever order.
    """
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for chunk in chunks(images, len(rows)):
        pixels = images[rows[chunk]]
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ values / total
    # of one value: exactly that
    mean = np.where(counts.max(axis=1) == total, values[counts.argmax(axis=1)], mean)
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean.tolist(), np.sqrt(variance).tolist()


def duplicates(digests: list[bytes], splits: np.ndarray) -> tuple[list[int], list[int]]:
    """Images, of each split, equal to an earlier one of that split and to none of an earlier split; to such a one."""
    before: set[bytes] = set()
    within, across = [], []
    for split in range(3):
        here = [digest for digest, of in zip(digests, splits, strict=True) if of == split]
        new = [digest for digest in here if digest not in before]
        across.append(len(here) - len(new))
        within.append(len(new) - len(set(new)))
        before.update(new)
    return within, across
