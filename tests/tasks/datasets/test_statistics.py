"""Statistics of prepared images: duplicates per split, and the mean and standard deviation of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets._statistics import duplicates, moments


def test_a_duplicate_of_an_earlier_split_is_not_counted_again_within_its_own_split() -> None:
    digests = [b"a", b"a", b"b", b"a", b"b", b"c", b"c", b"a"]
    splits = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    assert duplicates(digests, splits) == ([1, 0, 1], [0, 1, 2])


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32))
def test_moments_equal_numpys_mean_and_standard_deviation(rows: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (rows, 5, 5, channels), dtype=np.uint8)
    chosen_rows = np.arange(0, rows, 2)
    mean, std = moments(images, chosen_rows)
    assert mean == pytest.approx((images[chosen_rows] / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx((images[chosen_rows] / 255).std(axis=(0, 1, 2)), abs=1e-12)
