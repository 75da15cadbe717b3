"""Rows are split by class: samples, held-out rows, and the roles of a source's parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets._split import holdout, roles, sample

labels_of = st.lists(st.integers(0, 6), min_size=2, max_size=120).map(np.array)


@given(labels_of, st.floats(0, 1), st.integers(0, 2**32))
def test_sample_gives_each_class_its_share_to_within_one(labels: np.ndarray, part: float, seed: int) -> None:
    count = round(part * len(labels))
    chosen = sample(labels, count, (seed, 0))
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    for label in np.unique(labels):
        share = count * (labels == label).sum() / len(labels)
        assert abs((labels[chosen] == label).sum() - share) < 1
    assert np.array_equal(chosen, sample(labels, count, (seed, 0)))


@given(labels_of, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_holdout_leaves_a_row_of_each_class_where_it_is_stratified(labels: np.ndarray, part: float, seed: int) -> None:
    held, stratified = holdout(labels, part, (seed, 0))
    rest = np.delete(labels, held)
    assert len(held) == min(max(1, round(part * len(labels))), len(labels) - 1)
    assert len(rest) >= 1
    assert len(set(held.tolist())) == len(held)
    if stratified:
        assert set(rest) == set(labels)
    else:
        assert len(held) > len(labels) - len(set(labels.tolist()))


def test_sample_is_the_same_on_every_platform() -> None:
    labels = np.arange(20) % 3
    assert sample(labels, 6, (0, 1)).tolist() == [2, 4, 7, 8, 12, 15]
    assert sample(labels, 6, (1, 1)).tolist() == [2, 7, 10, 11, 12, 18]


def test_classes_of_one_image_each_are_split_at_random() -> None:
    held, stratified = holdout(np.arange(50), 0.2, (0, 0))
    assert not stratified
    assert len(held) == 10


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
def test_roles_of_parts(parts: list[str], expected: dict[str, str]) -> None:
    assert roles(parts) == expected


def test_parts_without_training_images_are_refused() -> None:
    with pytest.raises(ValueError, match="test and validation, but no training part"):
        roles(["test", "validation"])
