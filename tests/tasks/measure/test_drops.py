"""What is called shown or likely to be within the allowed drop is wrong no more often than it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.measure.drops import Drop, macro_f1_drop, top1_drop
from tasks.measure.metrics import macro_f1, smallest_drop

STUDIES = ((100, 0.02, 0.01), (360, 0.014, 0.006), (750, 0.012, 0.004), (1000, 0.03, 0.02), (5000, 0.012, 0.004))
"""Number of images, and shares of them that a candidate has newly wrong and newly right."""


def repeated(images: int, lost: float, mended: float, times: int = 1500) -> list[Drop]:
    """Return the drops of a candidate in repeated studies, each with images of its own."""
    counts = np.random.default_rng(7).multinomial(images, [lost, mended, 1 - lost - mended], times)
    return [top1_drop(int(newly_wrong), int(newly_right), images) for newly_wrong, newly_right, _ in counts]


@pytest.mark.parametrize(("images", "lost", "mended"), STUDIES)
def test_a_candidate_that_loses_more_than_is_allowed_is_rarely_called_shown_or_likely(
    images: int, lost: float, mended: float
) -> None:
    # The true drop is the least one that is not allowed, for which a mistake is most probable.
    allowed = lost - mended - 1e-6
    certainties = [drop.within(allowed) for drop in repeated(images, lost, mended)]
    shown = certainties.count("shown") / len(certainties)
    likely = certainties.count("likely") / len(certainties) + shown
    assert shown <= 0.035 and 0.1 <= likely <= 0.25, (shown, likely)
    # The lower end of the interval rules out the true drop as seldom.
    excluded = np.mean([drop.exceeds(lost - mended) for drop in repeated(images, lost, mended)])
    assert excluded <= 0.05


def test_a_candidate_that_is_as_good_is_shown_to_be_so_where_the_images_suffice() -> None:
    drops = repeated(5000, 0.005, 0.005)
    assert np.mean([drop.within(0.01) == "shown" for drop in drops]) > 0.95
    assert top1_drop(0, 0, 200).within(0.01) == "likely", "even without any change 200 images do not show it"


@given(st.integers(1, 3000), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.2))
def test_what_is_shown_is_likely_and_what_is_likely_is_within_by_its_point(
    images: int, lost: float, mended: float, allowed: float
) -> None:
    drop = top1_drop(int(lost * images), int(mended * images), images)
    assert drop.low <= drop.value <= drop.likely_high <= drop.high
    if drop.within(allowed) != "not shown":
        assert drop.value <= allowed + 1e-9 and not drop.exceeds(allowed)


@pytest.mark.parametrize(
    ("lost", "mended", "allowed", "less"),
    [(3, 0, 0.01, "shown"), (0, 0, 0.005, "shown"), (5, 3, 0.004, "exceeds"), (2, 6, 0.0, "shown")],
)
def test_that_many_images_at_the_same_rates_settle_it_and_a_tenth_less_do_not(
    lost: int, mended: int, allowed: float, less: str
) -> None:
    images = 360
    needed = top1_drop(lost, mended, images).images_to_settle(allowed)
    assert needed is not None and needed > images

    def settled(number: int) -> bool:
        drop = top1_drop(round(lost * number / images), round(mended * number / images), number)
        return drop.exceeds(allowed) if less == "exceeds" else drop.within(allowed) == "shown"

    assert settled(int(1.1 * needed)) and not settled(int(0.85 * needed))


def test_what_is_settled_or_cannot_be_settled_needs_no_images() -> None:
    assert top1_drop(0, 0, 1000).images_to_settle(0.01) is None, "it is shown"
    assert top1_drop(60, 0, 1000).images_to_settle(0.01) is None, "it is shown to be larger"
    assert top1_drop(10, 0, 1000).images_to_settle(0.01) is None, "it is the allowed drop itself"


# Macro F1.

Cases = tuple[np.ndarray, np.ndarray, np.ndarray]


def classified(dice: np.random.Generator, images: int) -> Cases:
    """Return labels of three classes of unequal size, and the predictions of a reference and of a worse candidate."""
    labels = dice.choice(3, images, p=(0.6, 0.25, 0.15))
    wrong = (labels + dice.integers(1, 3, images)) % 3
    before = np.where(dice.random(images) < 0.92, labels, wrong)
    changes = dice.random(images) < np.array([0.02, 0.05, 0.08])[labels]
    return labels, before, np.where(changes, wrong, before)


def drop_of(cases: Cases, resamples: int = 200) -> Drop:
    kinds, images = np.unique(np.stack(cases), axis=1, return_counts=True)
    return macro_f1_drop(kinds[0], kinds[1], kinds[2], images, resamples)


def test_the_drop_in_macro_f1_is_that_of_the_two_scores_and_the_seed_is_fixed() -> None:
    labels, before, after = cases = classified(np.random.default_rng(1), 500)
    drop = drop_of(cases)
    assert drop.value == pytest.approx(macro_f1(labels, before) - macro_f1(labels, after), abs=1e-12)
    assert drop.lost - drop.mended == (before == labels).sum() - (after == labels).sum()
    assert drop == drop_of(cases)


@pytest.mark.parametrize("images", [150, 600])
def test_the_intervals_of_the_drop_in_macro_f1_cover_the_true_drop(images: int) -> None:
    labels, before, after = classified(np.random.default_rng(2), 1_000_000)
    true = macro_f1(labels, before) - macro_f1(labels, after)
    dice = np.random.default_rng(3)
    drops = [drop_of(classified(dice, images)) for _ in range(200)]
    above = np.mean([drop.high < true for drop in drops])
    below = np.mean([drop.low > true for drop in drops])
    assert above <= 0.05 and below <= 0.05, (above, below)
    assert 0.1 <= np.mean([drop.likely_high < true for drop in drops]) <= 0.27


def test_macro_f1_of_a_few_images_on_which_both_agree_shows_nothing() -> None:
    labels = np.array([0, 1, 2, 0, 1])
    drop = drop_of((labels, labels, labels))
    assert drop.value == 0 and drop.high == pytest.approx(smallest_drop(5))
    assert drop.within(0.01) == "not shown"


def test_images_to_settle_a_drop_in_macro_f1_shrink_its_interval_to_the_allowed_one() -> None:
    drop = drop_of(classified(np.random.default_rng(4), 400))
    allowed = drop.value + (drop.high - drop.value) / 4
    assert drop.images_to_settle(allowed) == pytest.approx(16 * 400, rel=0.05)
