"""By how much a classifier is less accurate than a reference on the same images, and how sure that is.

Both classified the same images, so only the images count that one of them has right and the other wrong. For top-1 all
limits come from the score interval of a difference of paired shares (Tango 1998, Equivalence test and confidence
interval for the difference in proportions for the paired-sample design). It holds what it promises also where hardly
any image differs, where an interval by the normal distribution would have no width. For macro F1 they come from a
bootstrap over the same images (`metrics.macro_f1_drops`; Efron & Tibshirani 1993, An introduction to the bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.measure import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

Certainty = Literal["shown", "likely", "not shown"]

LIKELY = 0.8
"""Confidence of the one-sided limit by which a drop is called likely to be within the allowed one."""
# The quantiles LIKELY and 97.5 % of the standard normal distribution.
LIKELY_Z = 0.8416212335729143
EPS = 1e-9
"""Drops are shares of images. Two of them that differ by no more than this rounding error are equal."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """By how much a candidate is less accurate than the reference. Drops are -1..1; 0.01 is one percentage point."""

    images: int
    """Number of images that both classified."""
    lost: int
    """Number of images that only the reference has right."""
    mended: int
    """Number of images that only the candidate has right."""
    value: float
    """The drop on these images."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    likely_high: float
    """What the drop does not exceed with a confidence of `LIKELY`, one-sided."""

    def within(self, allowed: float) -> Certainty:
        """Return how sure it is that the drop is within the allowed one.

        "shown" where the 95 % interval ends within it: of candidates whose true drop is larger, at most about 2.5 % are
        called so. "likely" where the one-sided 80 % limit lies within it: of such candidates, at most about 20 %.
        """
        if self.high <= allowed + EPS:
            return "shown"
        return "likely" if self.likely_high <= allowed + EPS else "not shown"

    def exceeds(self, allowed: float) -> bool:
        """Return whether the images show that the drop is larger than the allowed one."""
        return self.low > allowed + EPS

    def images_to_settle(self, allowed: float) -> int | None:
        """Return about how many images would show whether the drop is within the allowed one, to two digits.

        It is the number from which on the 95 % interval ends on one side of the allowed drop, if the two classifiers
        go on to differ on the share of images on which they differ here. None where these images have settled it, and
        where no number would, because the drop is just the allowed one.
        """
        gap = allowed - self.value
        if self.within(allowed) == "shown" or self.exceeds(allowed) or abs(gap) <= EPS:
            return None
        top1_drop = (self.lost - self.mended) / self.images
        if abs(top1_drop - self.value) <= EPS:
            needed = _first(lambda images: self._settles(images, allowed))
        else:
            # The score is macro F1, whose interval narrows with the root of the number of images.
            width = self.high - self.value if gap > 0 else self.value - self.low
            needed = int(self.images * (width / gap) ** 2) + 1
        return int(float(f"{needed:.2g}"))

    def _settles(self, images: int, allowed: float) -> bool:
        """Return whether this many images would settle it, by their top-1."""
        share = images / self.images
        low, high = metrics.paired_drop(self.lost * share, self.mended * share, images)
        return high <= allowed if self.value < allowed else low > allowed


def top1_drop(lost: int, mended: int, images: int) -> Drop:
    """Return the drop in top-1 of a candidate that has `lost` of the images newly wrong and `mended` newly right."""
    low, high = metrics.paired_drop(lost, mended, images)
    return Drop(
        images=images,
        lost=lost,
        mended=mended,
        value=(lost - mended) / images,
        low=low,
        high=high,
        likely_high=metrics.paired_drop(lost, mended, images, LIKELY_Z)[1],
    )


def macro_f1_drop(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, images: np.ndarray, resamples: int = 1000
) -> Drop:
    """Return the drop in macro F1, by a bootstrap over the images with a fixed seed.

    Resampling knows nothing of differences that did not occur: where two classifiers agree on all of five images, its
    interval has no width. So each limit is at least as far from the drop as that of top-1 on the same images.

    Parameters
    ----------
    labels, before, after, images
        One entry per case: the right class, the reference's prediction, the candidate's, and the number of such images.
    """
    lost = int(images[(before == labels) & (after != labels)].sum())
    mended = int(images[(before != labels) & (after == labels)].sum())
    of_top1 = top1_drop(lost, mended, int(images.sum()))
    value, resampled = metrics.macro_f1_drops(labels, before, after, images, resamples=resamples)
    low, likely_high, high = np.quantile(resampled, (0.025, LIKELY, 0.975)).tolist()
    return Drop(
        images=of_top1.images,
        lost=lost,
        mended=mended,
        value=value,
        low=max(-1.0, value - max(value - low, of_top1.value - of_top1.low)),
        high=min(1.0, value + max(high - value, of_top1.high - of_top1.value)),
        likely_high=min(1.0, value + max(likely_high - value, of_top1.likely_high - of_top1.value)),
    )


def _first(settles: Callable[[int], bool]) -> int:
    """Return the smallest number of images that settles it, where every larger number does too."""
    few, many = 0, 1
    while not settles(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if settles(middle) else (middle, many)
    return many
