"""The report's verdict on augmentation: told from the curves, and only where no policy helped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from flows.report import curves
from tests.support import factory
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]
EPOCHS = 10
SATURATED = [0.8] * EPOCHS
RISING = [0.5 + 0.02 * i for i in range(EPOCHS)]


def run(name: str, train: Sequence[float], validation: Sequence[float], seed: int = 0) -> list[Row]:
    """Curves of a variant."""
    return [
        {
            "model": "net",
            "variant": f"net/{name}",
            "stage": "augment",
            "seed": seed,
            "epoch": i,
            "split": split,
            "loss": 1 - score,
            "macro_f1": score,
        }
        for split, scores in (("train", train), ("validation", validation))
        for i, score in enumerate(scores, 1)
    ]


def form(name: str, setting: str, goes_on: bool = False, stage: str = "augment", parent: str = "net/tune-none") -> Row:
    return {
        "name": f"net/{name}",
        "model": "net",
        "stage": stage,
        "setting": setting,
        "parent": parent,
        "benchmark": goes_on,
    }


TUNED = [
    form("train", "seed 0", stage="train", parent=""),
    form("tune-none", "as given", stage="tune", parent="net/train"),
]
PLAIN = run("train", [1.0] * EPOCHS, SATURATED)


def told(epochs: list[Row], forms: list[Row], images: int | None = None, **held_out: Row) -> list[str]:
    quality = {f"net/{name.replace('_', '-')}": row for name, row in held_out.items()}
    (found,) = curves.augmentation(pl.DataFrame(epochs), [*TUNED, *forms], quality, images)
    # curves, always
    assert found[0]
    return found[1]


def lost(train: Sequence[float], validation: Sequence[float], policy: str = "crop") -> list[str]:
    """What is told of one policy that lost against the training before tuning (an alias stands between)."""
    forms = [form(f"augment-{policy}", policy), form("augment-none", "none", goes_on=True)]
    return told(PLAIN + run(f"augment-{policy}", train, validation), forms)


def test_low_training_scores_that_still_rise_are_underfit_and_want_more_epochs() -> None:
    first, why = lost([score - 0.05 for score in RISING], RISING)
    assert first == "No policy beat training without augmentation (validation macro F1 0.800)."
    assert why.startswith(
        "The policy crop reached 0.680: it is underfit: training F1 was 0.630 (1.000 without augmentation)"
    )
    assert "still rising at the end (by 0.040); try longer training" in why


def test_low_training_scores_that_have_stopped_are_underfit_and_want_something_else() -> None:
    _, why = lost([0.7] * EPOCHS, [0.7] * EPOCHS)
    assert "underfit" in why and "rising" not in why and "milder policy" in why


def test_high_training_and_low_validation_scores_are_overfit() -> None:
    _, why = lost([0.99] * EPOCHS, [0.75] * EPOCHS)
    assert "overfit" in why and "underfit" not in why and "training F1 was 0.990" in why


def test_training_without_augmentation_that_leaves_nothing_to_gain_is_neither() -> None:
    plain = run("train", [0.99] * EPOCHS, [0.99] * EPOCHS)
    forms = [form("augment-crop", "crop"), form("augment-none", "none", goes_on=True)]
    _, why, noise = told(plain + run("augment-crop", [0.985] * EPOCHS, [0.985] * EPOCHS), forms, images=200)
    assert "neither underfit nor overfit" in why
    assert (
        "Chance alone can make such a difference between two scores of 200 validation images, so crop may be as good"
        in noise
    )


@pytest.mark.parametrize(("validation", "word"), [(RISING, "train longer"), ([0.5] * EPOCHS, "says little")])
def test_mixed_images_training_scores_are_not_judged_by(validation: list[float], word: str) -> None:
    _, why = lost([0.2] * EPOCHS, validation, "cutmix")
    assert word in why and "training F1" not in why


def test_nothing_is_told_where_a_policy_won_and_held_out_images_agree() -> None:
    epochs = PLAIN + run("augment-crop", [0.9] * EPOCHS, [0.85] * EPOCHS)
    better, worse = ({"macro_f1": f, "macro_f1_low": f - 0.01, "macro_f1_high": f + 0.01} for f in (0.84, 0.79))
    forms = [form("augment-crop", "crop", goes_on=True)]
    assert told(epochs, forms, train=worse, augment_crop=better) == []


@pytest.mark.parametrize(("fall", "said"), [(0.05, "0.790 against 0.840."), (0.01, "(their 95 % intervals overlap).")])
def test_a_policy_that_went_on_but_is_worse_on_held_out_images_is_told_with_its_reason(fall: float, said: str) -> None:
    epochs = PLAIN + run("augment-crop", [0.85] * EPOCHS, [0.81] * EPOCHS)
    plain, own = ({"macro_f1": f, "macro_f1_low": f - 0.01, "macro_f1_high": f + 0.01} for f in (0.84, 0.84 - fall))
    first, why = told(epochs, [form("augment-crop", "crop", goes_on=True)], train=plain, augment_crop=own)
    assert first.endswith(said) and why.startswith("crop: ")


def test_policies_tried_in_short_are_compared_with_none_tried_in_short() -> None:
    epochs = PLAIN + run("augment-none-try", [0.6] * 3, [0.6] * 3) + run("augment-crop-try", [0.4] * 3, [0.5] * 3)
    forms = [form("augment-none-try", "none"), form("augment-crop-try", "crop"), form("augment-none", "none", True)]
    first, why = told(epochs, forms)
    assert first.startswith("Tried in short, no policy beat") and "0.600" in first
    assert "(0.600 without augmentation)" in why


def test_policies_trained_for_more_epochs_are_compared_with_none_trained_for_as_many() -> None:
    longer = form("augment-none-long", "none, longer")
    epochs = PLAIN + run("augment-none-long", [0.99] * EPOCHS, [0.85] * EPOCHS)
    epochs += run("augment-crop", [0.7] * EPOCHS, [0.82] * EPOCHS)
    first, why = told(epochs, [longer | {"benchmark": True}, form("augment-crop", "crop")])
    assert "(validation macro F1 0.850)" in first and why.startswith("The policy crop reached 0.820")
    # the tuned weights: worse when trained for longer
    kept = form("augment-none", "none", goes_on=True)
    epochs = PLAIN + run("augment-none-long", [0.99] * EPOCHS, [0.75] * EPOCHS)
    epochs += run("augment-crop", [0.7] * EPOCHS, [0.78] * EPOCHS)
    first, *why = told(epochs, [longer, form("augment-crop", "crop"), kept])
    assert (
        "(validation macro F1 0.800)" in first and len(why) == 1 and why[0].startswith("The policy crop reached 0.780")
    )
    assert told(PLAIN + run("augment-none-long", [0.9] * EPOCHS, [0.7] * EPOCHS), [longer, kept]) == []


def test_one_that_won_in_short_and_lost_in_full_is_told_of_its_full_training_alone() -> None:
    epochs = PLAIN + run("augment-none-try", [0.6] * 3, [0.6] * 3) + run("augment-crop-try", [0.7] * 3, [0.7] * 3)
    epochs += run("augment-crop", [0.7] * EPOCHS, [0.72] * EPOCHS)
    forms = [
        form("augment-none-try", "none"),
        form("augment-crop-try", "crop"),
        form("augment-crop", "crop"),
        form("augment-none", "none", goes_on=True),
    ]
    first, why = told(epochs, forms)
    assert first.startswith("No policy") and why.startswith("The policy crop reached 0.720: it is underfit")


def test_seeds_are_judged_by_their_mean() -> None:
    other = run("augment-crop", [0.9] * EPOCHS, [0.5] * EPOCHS, seed=1)
    epochs = PLAIN + run("augment-crop", [0.9] * EPOCHS, [0.7] * EPOCHS) + other
    forms = [form("augment-crop", "crop"), form("augment-none", "none", goes_on=True)]
    _, why, seeds = told(epochs, forms)
    assert (
        why.startswith("The policy crop reached 0.600: it is overfit")
        and seeds == "Scores here are means over 2 seeds."
    )


def test_the_page_shows_the_verdict_beside_the_curves_and_says_whose_curves_they_are() -> None:
    tables = factory.tables()
    some = {name: tables[name] for name in ("epochs", "variants", "evaluations", "datasets")}
    words = " ".join(Page(page_of(some, factory.study())).words.split())
    assert "Why augmentation did not help: No policy beat training without augmentation" in words
    assert "crop_flip reached 0.9" in words and "Chance alone can make such a difference" in words
    assert "held-out (test) images are evaluated once, when training has ended" in words
