"""Rows are sampled and held out by class, and the parts of a source are assigned to splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets._split import holdout, roles, sample

labels_of = st.lists(st.integers(0, 6), min_size=2, max_size=120).map(np.array)


@given(labels_of, st.floats(0, 1), st.integers(0, 2**32))
def test_a_sample_gives_each_class_its_share_to_within_one_row(labels: np.ndarray, fraction: float, seed: int) -> None:
    count = round(fraction * len(labels))
    chosen_rows = sample(labels, count, (seed, 0))
    assert len(chosen_rows) == count
    assert (np.diff(chosen_rows) > 0).all()
    for label in np.unique(labels):
        share = count * (labels == label).sum() / len(labels)
        assert abs((labels[chosen_rows] == label).sum() - share) < 1
    assert np.array_equal(chosen_rows, sample(labels, count, (seed, 0)))


@given(labels_of, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_a_stratified_holdout_leaves_at_least_one_row_of_each_class(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    held_out, stratified = holdout(labels, fraction, (seed, 0))
    remaining = np.delete(labels, held_out)
    assert len(held_out) == min(max(1, round(fraction * len(labels))), len(labels) - 1)
    assert len(remaining) >= 1
    assert len(set(held_out.tolist())) == len(held_out)
    if stratified:
        assert set(remaining) == set(labels)
    else:
        assert len(held_out) > len(labels) - len(set(labels.tolist()))


def test_a_seed_draws_the_same_sample_on_every_platform() -> None:
    labels = np.arange(20) % 3
    assert sample(labels, 6, (0, 1)).tolist() == [2, 4, 7, 8, 12, 15]
    assert sample(labels, 6, (1, 1)).tolist() == [2, 7, 10, 11, 12, 18]


def test_rows_of_classes_with_one_image_each_are_held_out_at_random() -> None:
    held_out, stratified = holdout(np.arange(50), 0.2, (0, 0))
    assert not stratified
    assert len(held_out) == 10


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["train"], {"train": "train"}),
        (["validation"], {"train": "validation"}),
        (["train", "test"], {"train": "train", "test": "test"}),
        (["train", "validation"], {"train": "train", "test": "validation"}),
        (["test", "train", "validation"], {"train": "train", "validation": "validation", "test": "test"}),
    ],
)
def test_parts_of_a_source_are_assigned_to_splits(parts: list[str], expected: dict[str, str]) -> None:
    assert roles(parts) == expected


def test_a_source_without_a_training_part_is_refused() -> None:
    with pytest.raises(ValueError, match="test and validation, but no training part"):
        roles(["test", "validation"])
