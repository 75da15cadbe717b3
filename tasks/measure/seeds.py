"""Random generators of NumPy, seeded in one way everywhere: no two purposes may draw the same numbers by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def generator(seed: int | Sequence[int]) -> np.random.Generator:
    """Return a generator that draws the same numbers on every platform.

    Parameters
    ----------
    seed
        One number, or several that together say what is drawn, e.g. (the study's seed, the number of the trial).
        `SeedSequence` mixes them, so that (0, 1) and (1, 0) draw unrelated numbers, which the sum of the two would not.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
