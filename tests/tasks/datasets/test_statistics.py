"""What is counted and measured of prepared images: duplicates, and the mean and deviation of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets._statistics import duplicates, moments


def test_duplicates_are_counted_once_and_earlier_splits_come_first() -> None:
    digests = [b"a", b"a", b"b", b"a", b"b", b"c", b"c", b"a"]
    splits = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    assert duplicates(digests, splits) == ([1, 0, 1], [0, 1, 2])


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32))
def test_moments_are_those_of_the_pixels(rows: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (rows, 5, 5, channels), dtype=np.uint8)
    chosen = np.arange(0, rows, 2)
    mean, std = moments(images, chosen)
    assert mean == pytest.approx((images[chosen] / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx((images[chosen] / 255).std(axis=(0, 1, 2)), abs=1e-12)
