"""How far the outputs of an exported form are from those of its PyTorch parent, on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.records import Prepared

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.runtimes import Session


BATCH = 8
"""The larger batch size at which a form is compared; the smaller is 1, and tracing sees 2."""


def compared_images(work: Work, data: Prepared, count: int) -> numpy.ndarray:
    """Normalised validation images, evenly spread over their rows (a source may be sorted by class).

    Where all images are for testing, of those: what is compared is a form with its parent, and nothing is chosen by it.
    """
    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("validation" if data.validation_rows else "test")
    chosen = numpy.linspace(0, len(rows) - 1, max(BATCH, min(count, len(rows)))).astype(int)
    return normalise(arrays.images[rows[chosen]], data.mean, data.std)


def parity(parent: Session, form: Session, images: numpy.ndarray) -> float:
    """Largest difference of a logit from the parent's over the parent's largest logit, one by one and in batches of 8.

    Raises
    ------
    ValueError
        If the parent's logits are not finite, or all zero: then agreement proves nothing.
    """
    worst = 0.0
    for batch in (1, BATCH):
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        want = numpy.concatenate([parent.run(chunk) for chunk in chunks])
        got = numpy.concatenate([form.run(chunk) for chunk in chunks])
        if not numpy.isfinite(want).all() or not want.any():
            raise ValueError("the parent's logits are not finite or all zero; nothing can be compared")
        # keeps NaN
        worst = numpy.maximum(worst, abs(want - got).max() / abs(want).max())
    return float(worst)
