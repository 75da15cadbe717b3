"""Int8 forms: the images that they are calibrated and scored on, and their scores beside those of the fp32 parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks import runtimes
from tasks.datasets._pixels import normalise
from tasks.machine import cores
from tasks.measure import fidelity, metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.datasets._arrays import Arrays, Split
    from tasks.records import Prepared
    from tasks.runtimes import Session


BATCH = 32
"""Images per batch of the scoring."""
LOOK = 64
"""Images at most of a first look at a form, by which those that are clearly worse than another are left."""
VALIDATION_IMAGES = 2000
"""Validation images at most that a form is scored on."""


class Rows:
    """Normalised images of some rows, of which only those that are read are in memory.

    A quantizer takes one as its `Calibration`.
    """

    def __init__(self, data: Prepared, images: np.ndarray, rows: np.ndarray) -> None:
        self.data = data
        self.images = images
        """uint8, (all rows, height, width, channels)."""
        self.rows = rows
        """The row numbers."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def metric(self) -> str:
        """What top-1 on these images is: agreement with the original, where its predictions stand for labels."""
        return "top-1" if self.data.labelled_by is None else "agreement with the original"

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the images from the one with number `start` to the one before `stop`: float32, (images, channels,
        height, width)."""
        return normalise(self.images[self.rows[start:stop]], self.data.mean, self.data.std)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield all images in batches of at most `BATCH`."""
        for start in range(0, len(self), BATCH):
            yield self.read(start, start + BATCH)


def sample(arrays: Arrays, split: Split, count: int) -> np.ndarray:
    """Return at most `count` row numbers of a split, ascending.

    Each class has a share of them in proportion to its rows, evenly spread over these.
    """
    rows = arrays.rows_of(split)
    by_class = rows[np.argsort(arrays.labels[rows], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)])


def looked_at(count: int) -> np.ndarray:
    """Return which of `count` images a form is looked at with first, evenly spread over them."""
    return np.linspace(0, count - 1, min(LOOK, count)).round().astype(int)


def open_form(path: Path, file_format: str) -> Session:
    """Open a form on the CPU, in the usual runtime of its format."""
    runtime = runtimes.load(runtimes.USUAL[file_format])
    runtime.load_library("cpu")
    return runtime.open(path, "cpu", BATCH, cores())


def classify(session: Session, images: Rows) -> np.ndarray:
    """Return the logits of all images: float32, (images, classes)."""
    return np.concatenate([session.run(batch) for batch in images.batches()])


def logits_of(path: Path, file_format: str, images: Rows) -> np.ndarray:
    """Return the logits that the model of a file gives images: float32, (images, classes)."""
    session = open_form(path, file_format)
    try:
        return classify(session, images)
    finally:
        session.close()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well a form classifies the validation images, by itself and beside its fp32 parent."""

    top1: float
    """Share of the images, 0 to 1."""
    macro_f1: float
    agreement: float
    """Share of the images that the parent gives the same class."""
    divergence: float
    """Kullback-Leibler divergence from the parent's probabilities, in nats."""
    drop: float
    """How much top-1 the form is taken to lose: see `score`."""
    parity: float
    """Largest difference of a logit from the parent's, over the parent's largest logit."""
    look: float
    """`divergence` on the few images of a first look."""


def score(parent: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Score a form by its logits and its parent's, both float32, (images, classes).

    The drop is the larger of two: top-1 that is lost on these labels, and top-1 that the parent's own probabilities say
    is lost (`fidelity.expected_drop`). On few images the first is mostly chance: on 125 images a form that changes 6 %
    of the classes gains or loses 2 points by chance alone, and then seems better than its parent. The second is not
    chance, and needs no labels; but it is wrong where the parent is too sure or too unsure of its classes. Labels and
    probabilities must both say that the form is good.
    """
    predicted = metrics.predictions(logits)
    top1 = metrics.top1(logits, labels)
    return Scores(
        top1=top1,
        macro_f1=metrics.macro_f1(labels, predicted),
        agreement=metrics.agreement(predicted, metrics.predictions(parent)),
        divergence=fidelity.divergence(parent, logits),
        drop=max(metrics.top1(parent, labels) - top1, fidelity.expected_drop(parent, logits)),
        parity=float(abs(logits - parent).max() / abs(parent).max()),
        look=fidelity.divergence(parent[looked_at(len(parent))], logits[looked_at(len(parent))]),
    )
