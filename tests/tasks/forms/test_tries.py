"""Ways to normalise that hardly differ count as the same, and others do not."""

from __future__ import annotations

import pytest

from tasks.forms._tries import alike
from tasks.forms._usual import BYTES, CAFFE, HALF, IMAGENET, UNIT

CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))


def test_the_means_of_similar_images_are_alike() -> None:
    assert alike(IMAGENET, CIFAR) and alike(CIFAR, IMAGENET)
    assert alike(((0.498,), (0.502,)), HALF)


@pytest.mark.parametrize(
    ("first", "second"),
    [(IMAGENET, HALF), (IMAGENET, UNIT), (UNIT, HALF), (UNIT, BYTES), (BYTES, CAFFE), (HALF, CIFAR)],
)
def test_other_scales_and_means_are_not(first: tuple, second: tuple) -> None:
    assert not alike(first, second) and not alike(second, first)
