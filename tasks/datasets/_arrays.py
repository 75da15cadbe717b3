"""The arrays that the prepare stage makes of a data set: one row per image, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

if TYPE_CHECKING:
    from tasks.caching.store import Store
    from tasks.records import Prepared

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""The splits. The array of splits holds positions in this tuple."""


class Arrays(NamedTuple):
    """Prepared images, their labels and the splits that they belong to. All are read-only memory maps."""

    images: np.ndarray
    """uint8, (rows, height, width, channels)."""
    labels: np.ndarray
    """int64, (rows,), class indices."""
    splits: np.ndarray
    """uint8, (rows,), positions in `SPLITS`."""

    def rows_of(self, split: Split) -> np.ndarray:
        """Return the row numbers of a split, int64, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def load_arrays(store: Store, prepared: Prepared) -> Arrays:
    """Open prepared images without copying them or verifying their hashes (the cache has)."""
    images, labels, splits = (
        np.load(store.root / artifact.path, mmap_mode="r", allow_pickle=False)
        for artifact in (prepared.images, prepared.labels, prepared.splits)
    )
    return Arrays(images, labels, splits)
