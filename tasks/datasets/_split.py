"""Which rows are used and in which split: stratified, seeded, decided from the labels before an image is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._arrays import SPLITS
from tasks.measure.seeds import generator

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping

    from tasks.records import Data


def sample(labels: np.ndarray, count: int, seed: tuple[int, int], leave: int = 0) -> np.ndarray:
    """Choose `count` rows so that each class has its share, by largest remainders.

    Parameters
    ----------
    labels
        (rows,), any integers.
    count
        Rows to choose, at most all.
    seed
        Numbers that seed the random choice (tasks/measure/seeds.py). The choice is the same on every platform.
    leave
        Rows of each class that are not chosen (a class of fewer gives none).

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
    most = np.maximum(sizes - leave, 0)
    if count > most.sum():
        raise ValueError(f"{count} rows of {most.sum()} cannot be chosen")
    quota = np.minimum(count * sizes // max(len(labels), 1), most)
    by_remainder = np.lexsort((rng.random(len(classes)), -(count * sizes % max(len(labels), 1))))
    while (missing := count - quota.sum()) > 0:
        quota[by_remainder[(quota < most)[by_remainder]][:missing]] += 1
    # by class, in random order within it
    shuffled = np.lexsort((rng.random(len(labels)), labels))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(shuffled[rank < np.repeat(quota, sizes)])


def holdout(labels: np.ndarray, fraction: float, seed: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Positions of `fraction` of the rows, and whether they are stratified.

    A class keeps at least one row. Where too many classes have a single row for that, rows are drawn from all alike.

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} usable images are too few to hold some of them out")
    count = min(max(1, round(fraction * len(labels))), len(labels) - 1)
    stratified = bool(count <= len(labels) - len(np.unique(labels)))
    return sample(labels if stratified else np.zeros_like(labels), count, seed, leave=1), stratified


def roles(parts: Iterable[str]) -> dict[str, str]:
    """Split -> the source's part that gives it; splits that are missing are taken from the training part.

    A single part is all there is, whatever its name. Of a training and a validation part (ImageNet's layout) the second
    is the test split: labelled images that nothing was chosen by.

    Raises
    ------
    ValueError
        If there are several parts and none is for training.
    """
    names = set(parts)
    if len(names) == 1:
        return {"train": names.pop()}
    if "train" not in names:
        raise ValueError(
            f"the source has {' and '.join(sorted(names)) or 'no images'}, but no training part; call it train"
        )
    if names == {"train", "validation"}:
        return {"train": "train", "test": "validation"}
    return {name: name for name in SPLITS if name in names}


def plan(
    usable: Mapping[str, tuple[np.ndarray, np.ndarray]], settings: Data, log: logging.Logger
) -> dict[str, tuple[str, np.ndarray]]:
    """Split -> (part, its rows in ascending order).

    Parameters
    ----------
    usable
        Part -> (row numbers, their labels) of the rows whose labels are good.
    settings
        Fractions, limits and seed.
    log
        Is told what was done.
    """
    of = roles(usable)
    if of.get("test") == "validation":
        log.info("no test part: the source's validation images are the test images")
    chosen = {split: usable[part] for split, part in of.items()}

    def take(split: str, fraction: float, purpose: int) -> None:
        rows, labels = chosen["train"]
        if fraction == 1:
            log.info("no %s part: all %d images of %s are it", split, len(rows), of["train"])
            chosen[split], chosen["train"] = (rows, labels), (rows[:0], labels[:0])
            return
        held, stratified = holdout(labels, fraction, (settings.seed, purpose))
        how = "stratified" if stratified else "at random (too many classes of one image to stratify)"
        log.info("no %s part: %d of %d images of %s held out, %s", split, len(held), len(rows), of["train"], how)
        chosen[split] = rows[held], labels[held]
        chosen["train"] = np.delete(rows, held), np.delete(labels, held)

    def limit(split: str, most: int | None, purpose: int) -> None:
        rows, labels = chosen[split]
        if most is not None and most < len(rows):
            kept = sample(labels, most, (settings.seed, purpose))
            log.info("%s limited to %d of %d images", split, most, len(rows))
            chosen[split] = rows[kept], labels[kept]

    if "test" not in chosen:
        take("test", settings.test_fraction, 1)
    limit("train", settings.train_limit, 2)
    limit("test", settings.test_limit, 3)
    if "validation" not in chosen and len(chosen["train"][0]):
        take("validation", settings.validation_fraction, 4)
    return {split: (of.get(split, of["train"]), chosen[split][0]) for split in SPLITS if split in chosen}
