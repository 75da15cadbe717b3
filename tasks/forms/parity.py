"""How far the outputs of an exported form are from those of its PyTorch parent, on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy

from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.records import Prepared

if TYPE_CHECKING:
    from tasks.caching.work import Work


BATCH = 8
"""A form is compared at batch sizes 1 and this. An exporter traces it at 2, so that it has seen neither."""


def compared_images(work: Work, data: Prepared, count: int) -> numpy.ndarray:
    """Return the images of `compared_pixels`, normalised: float32, (images, channels, height, width)."""
    return normalise(compared_pixels(work, data, count), data.mean, data.std)


def compared_pixels(work: Work, data: Prepared, count: int) -> numpy.ndarray:
    """Return validation images, evenly spread over their rows because a source may be sorted by class.

    They are uint8, (images, height, width, channels), and at least `BATCH`. Where all images are for testing, they are
    test images: a form is compared with its parent on them, and nothing is chosen by the result.
    """
    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("validation" if data.validation_rows else "test")
    chosen = numpy.linspace(0, len(rows) - 1, max(BATCH, min(count, len(rows)))).astype(int)
    return arrays.images[rows[chosen]]


class Classifier(Protocol):
    """Whatever classifies images: a session of a runtime, or more than that."""

    def run(self, inputs: numpy.ndarray) -> numpy.ndarray:
        """Return the logits of a batch of images."""


def parity(parent: Classifier, form: Classifier, images: numpy.ndarray) -> float:
    """Return the largest difference between a form's logits and its parent's, divided by the parent's largest logit.

    The images are run one by one and in batches of 8, and the larger result is returned.

    Raises
    ------
    ValueError
        If the parent's logits are not finite, or all zero: then agreement proves nothing.
    """
    worst = 0.0
    for batch in (1, BATCH):
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        expected = numpy.concatenate([parent.run(chunk) for chunk in chunks])
        actual = numpy.concatenate([form.run(chunk) for chunk in chunks])
        if not numpy.isfinite(expected).all() or not expected.any():
            raise ValueError("the parent's logits are not finite or all zero; nothing can be compared")
        # Unlike max(), numpy.maximum keeps a NaN.
        worst = numpy.maximum(worst, abs(expected - actual).max() / abs(expected).max())
    return float(worst)
