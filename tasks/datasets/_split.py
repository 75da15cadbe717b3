"""Decide which rows are used, and in which split: stratified, seeded, and from the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._arrays import SPLITS
from tasks.measure.seeds import generator

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping

    from tasks.records import Data

    LabelledRows = tuple[np.ndarray, np.ndarray]
    """Row numbers of a part, int64, ascending, and the class index of each of these rows, int64."""


def sample(labels: np.ndarray, count: int, seed: tuple[int, int], leave: int = 0) -> np.ndarray:
    """Choose `count` rows at random so that each class has its share, by the method of largest remainders.

    Parameters
    ----------
    labels
        The class of each row: integers, (rows,).
    count
        Number of rows to choose.
    seed
        Numbers that seed the random choice (tasks/measure/seeds.py). The choice is the same on every platform.
    leave
        This many rows of each class are left over. A class that has no more than these gives none.

    Returns
    -------
    Positions in `labels`, ascending.

    Raises
    ------
    ValueError
        If fewer than `count` rows can be chosen.
    """
    rng = generator(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    available = np.maximum(sizes - leave, 0)
    if count > available.sum():
        raise ValueError(f"{count} rows of {available.sum()} cannot be chosen")
    share = np.minimum(count * sizes // max(len(labels), 1), available)
    # The classes, that with the largest remainder first; equal remainders are in random order.
    by_remainder = np.lexsort((rng.random(len(classes)), -(count * sizes % max(len(labels), 1))))
    while (missing := count - share.sum()) > 0:
        share[by_remainder[(share < available)[by_remainder]][:missing]] += 1
    # Positions of the rows by class, in random order within each class.
    shuffled = np.lexsort((rng.random(len(labels)), labels))
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(shuffled[rank_in_class < np.repeat(share, sizes)])


def holdout(labels: np.ndarray, fraction: float, seed: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Choose a fraction of the rows, and return their positions in `labels` and whether they are stratified.

    Each class keeps at least one row. If too many classes have a single row for that, rows are drawn without regard to
    their class.

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    if len(labels) < 2:
        images = "image is" if len(labels) == 1 else "images are"
        raise ValueError(f"{len(labels)} usable {images} too few to hold some of them out")
    count = min(max(1, round(fraction * len(labels))), len(labels) - 1)
    stratified = bool(count <= len(labels) - len(np.unique(labels)))
    return sample(labels if stratified else np.zeros_like(labels), count, seed, leave=1), stratified


def roles(parts: Iterable[str]) -> dict[str, str]:
    """Return, for each split that a part of the source supplies, the name of that part.

    The other splits are later held out from the training part. A single part supplies the training split, whatever its
    name. If there are a training and a validation part, as in ImageNet, the validation part supplies the test split,
    because its labelled images have not been used to choose anything.

    Raises
    ------
    ValueError
        If there is no part, or if there are several and none is named train.
    """
    names = set(parts)
    if len(names) == 1:
        return {"train": names.pop()}
    if "train" not in names:
        if not names:
            raise ValueError("the source has no images")
        raise ValueError(
            f"the source has {' and '.join(sorted(names))}, but no training part; name the folder or file of the "
            "training images train"
        )
    if names == {"train", "validation"}:
        return {"train": "train", "test": "validation"}
    return {name: name for name in SPLITS if name in names}


class _Draw:
    """Draws rows for the splits of one source."""

    def __init__(self, usable: Mapping[str, LabelledRows], seed: int, log: logging.Logger) -> None:
        self.part_of = roles(usable)
        """For each split that a part of the source supplies, the name of that part."""
        self.chosen = {split: usable[part] for split, part in self.part_of.items()}
        """For each split, the rows chosen so far."""
        self.seed = seed
        self.log = log

    def hold_out(self, split: str, fraction: float, purpose: int) -> None:
        """Take a fraction of the training rows away for another split. `purpose` sets the seeds of the draws apart."""
        rows, labels = self.chosen["train"]
        train_part = self.part_of["train"]
        if fraction == 1:
            self.log.info("no %s part: all %d images of %s serve as it", split, len(rows), train_part)
            self.chosen[split] = rows, labels
            self.chosen["train"] = rows[:0], labels[:0]
            return
        held, stratified = holdout(labels, fraction, (self.seed, purpose))
        how = "stratified" if stratified else "at random (too many classes of one image to stratify)"
        self.log.info("no %s part: %d of %d images of %s held out, %s", split, len(held), len(rows), train_part, how)
        self.chosen[split] = rows[held], labels[held]
        self.chosen["train"] = np.delete(rows, held), np.delete(labels, held)

    def limit(self, split: str, count: int | None, purpose: int) -> None:
        """Keep at most `count` rows of a split. `purpose` sets the seeds of the draws apart."""
        rows, labels = self.chosen[split]
        if count is not None and count < len(rows):
            positions = sample(labels, count, (self.seed, purpose))
            self.log.info("%s limited to %d of %d images", split, count, len(rows))
            self.chosen[split] = rows[positions], labels[positions]


def plan(usable: Mapping[str, LabelledRows], settings: Data, log: logging.Logger) -> dict[str, tuple[str, np.ndarray]]:
    """Return, for each split, the name of the part that its images are from, and their row numbers, ascending.

    Parameters
    ----------
    usable
        For each part, the rows whose labels are good.
    """
    draw = _Draw(usable, settings.seed, log)
    if draw.part_of.get("test") == "validation":
        log.info("no test part: the source's validation images are the test images")
    if "test" not in draw.chosen:
        draw.hold_out("test", settings.test_fraction, purpose=1)
    draw.limit("train", settings.train_limit, purpose=2)
    draw.limit("test", settings.test_limit, purpose=3)
    if "validation" not in draw.chosen and len(draw.chosen["train"][0]):
        draw.hold_out("validation", settings.validation_fraction, purpose=4)
    return {
        split: (draw.part_of.get(split, draw.part_of["train"]), draw.chosen[split][0])
        for split in SPLITS
        if split in draw.chosen
    }
