"""The report's verdict on augmentation follows from the curves, and is given only where no policy helped."""

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


def epoch_rows(name: str, train: Sequence[float], validation: Sequence[float], seed: int = 0) -> list[Row]:
    """Return the rows of `epochs` for a variant with these macro F1, one per epoch, on both splits."""
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


def variant_row(
    name: str, setting: str, chosen: bool = False, stage: str = "augment", parent: str = "net/tune-none"
) -> Row:
    return {
        "name": f"net/{name}",
        "model": "net",
        "stage": stage,
        "setting": setting,
        "parent": parent,
        "benchmark": chosen,
    }


TUNED = [
    variant_row("train", "seed 0", stage="train", parent=""),
    variant_row("tune-none", "as given", stage="tune", parent="net/train"),
]
PLAIN = epoch_rows("train", [1.0] * EPOCHS, SATURATED)
"""The curves of training without augmentation, whose weights tuning left as they were."""


def reasons_for(epochs: list[Row], variants: list[Row], images: int | None = None, **held_out: Row) -> list[str]:
    """Return why no policy helped the only model of these tables; `held_out` has rows of `evaluations`."""
    quality = {f"net/{name.replace('_', '-')}": row for name, row in held_out.items()}
    ((figures, reasons),) = curves.augmentation(pl.DataFrame(epochs), [*TUNED, *variants], quality, images)
    # The curves are drawn whether a policy helped or not.
    assert figures
    return reasons


def reasons_for_losing(train: Sequence[float], validation: Sequence[float], policy: str = "crop") -> list[str]:
    """Return the reasons for one policy that lost against the training before tuning, whose weights tuning kept."""
    variants = [variant_row(f"augment-{policy}", policy), variant_row("augment-none", "none", chosen=True)]
    return reasons_for(PLAIN + epoch_rows(f"augment-{policy}", train, validation), variants)


def test_a_policy_whose_low_training_score_still_rises_is_underfit_and_needs_more_epochs() -> None:
    first, why = reasons_for_losing([score - 0.05 for score in RISING], RISING)
    assert first == "No policy beat training without augmentation (validation macro F1 0.800)."
    assert why.startswith(
        "The policy crop reached 0.680: it is underfit: training F1 was 0.630 (1.000 without augmentation)"
    )
    assert "still rising at the end (by 0.040); try longer training" in why


def test_a_policy_whose_low_training_score_stopped_rising_is_underfit_and_too_strong() -> None:
    _, why = reasons_for_losing([0.7] * EPOCHS, [0.7] * EPOCHS)
    assert "underfit" in why and "rising" not in why and "milder policy" in why


def test_a_policy_with_a_high_training_and_a_low_validation_score_is_overfit() -> None:
    _, why = reasons_for_losing([0.99] * EPOCHS, [0.75] * EPOCHS)
    assert "overfit" in why and "underfit" not in why and "training F1 was 0.990" in why


def test_a_policy_close_to_a_nearly_perfect_training_is_neither_underfit_nor_overfit() -> None:
    plain = epoch_rows("train", [0.99] * EPOCHS, [0.99] * EPOCHS)
    variants = [variant_row("augment-crop", "crop"), variant_row("augment-none", "none", chosen=True)]
    _, why, noise = reasons_for(
        plain + epoch_rows("augment-crop", [0.985] * EPOCHS, [0.985] * EPOCHS), variants, images=200
    )
    assert "neither underfit nor overfit" in why
    assert (
        "Chance alone can make such a difference between two scores of 200 validation images, so crop may be as good"
        in noise
    )


@pytest.mark.parametrize(("validation", "word"), [(RISING, "train longer"), ([0.5] * EPOCHS, "says little")])
def test_policies_that_mix_images_are_not_judged_by_their_training_scores(validation: list[float], word: str) -> None:
    _, why = reasons_for_losing([0.2] * EPOCHS, validation, "cutmix")
    assert word in why and "training F1" not in why


def test_no_reasons_are_given_when_a_policy_won_on_validation_and_held_out_images() -> None:
    epochs = PLAIN + epoch_rows("augment-crop", [0.9] * EPOCHS, [0.85] * EPOCHS)
    better, worse = ({"macro_f1": f, "macro_f1_low": f - 0.01, "macro_f1_high": f + 0.01} for f in (0.84, 0.79))
    variants = [variant_row("augment-crop", "crop", chosen=True)]
    assert reasons_for(epochs, variants, train=worse, augment_crop=better) == []


@pytest.mark.parametrize(
    ("fall", "ending"), [(0.05, "0.790 against 0.840."), (0.01, "(their 95 % intervals overlap).")]
)
def test_a_chosen_policy_that_is_worse_on_held_out_images_is_reported_with_its_reason(fall: float, ending: str) -> None:
    epochs = PLAIN + epoch_rows("augment-crop", [0.85] * EPOCHS, [0.81] * EPOCHS)
    plain, augmented = (
        {"macro_f1": f, "macro_f1_low": f - 0.01, "macro_f1_high": f + 0.01} for f in (0.84, 0.84 - fall)
    )
    first, why = reasons_for(
        epochs, [variant_row("augment-crop", "crop", chosen=True)], train=plain, augment_crop=augmented
    )
    assert first.endswith(ending) and why.startswith("crop: ")


def test_policies_tried_in_short_are_compared_with_a_short_training_without_augmentation() -> None:
    epochs = (
        PLAIN
        + epoch_rows("augment-none-try", [0.6] * 3, [0.6] * 3)
        + epoch_rows("augment-crop-try", [0.4] * 3, [0.5] * 3)
    )
    variants = [
        variant_row("augment-none-try", "none"),
        variant_row("augment-crop-try", "crop"),
        variant_row("augment-none", "none", True),
    ]
    first, why = reasons_for(epochs, variants)
    assert first.startswith("Tried in short, no policy beat") and "0.600" in first
    assert "(0.600 without augmentation)" in why


def test_policies_are_compared_with_training_without_augmentation_for_as_many_epochs() -> None:
    longer = variant_row("augment-none-long", "none, longer")
    epochs = PLAIN + epoch_rows("augment-none-long", [0.99] * EPOCHS, [0.85] * EPOCHS)
    epochs += epoch_rows("augment-crop", [0.7] * EPOCHS, [0.82] * EPOCHS)
    first, why = reasons_for(epochs, [longer | {"benchmark": True}, variant_row("augment-crop", "crop")])
    assert "(validation macro F1 0.850)" in first and why.startswith("The policy crop reached 0.820")
    # Longer training made the tuned weights worse, so policies are compared with the tuned weights themselves.
    tuned = variant_row("augment-none", "none", chosen=True)
    epochs = PLAIN + epoch_rows("augment-none-long", [0.99] * EPOCHS, [0.75] * EPOCHS)
    epochs += epoch_rows("augment-crop", [0.7] * EPOCHS, [0.78] * EPOCHS)
    first, *why = reasons_for(epochs, [longer, variant_row("augment-crop", "crop"), tuned])
    assert (
        "(validation macro F1 0.800)" in first and len(why) == 1 and why[0].startswith("The policy crop reached 0.780")
    )
    assert reasons_for(PLAIN + epoch_rows("augment-none-long", [0.9] * EPOCHS, [0.7] * EPOCHS), [longer, tuned]) == []


def test_a_policy_that_won_in_short_and_lost_in_full_is_judged_by_its_full_training() -> None:
    epochs = (
        PLAIN
        + epoch_rows("augment-none-try", [0.6] * 3, [0.6] * 3)
        + epoch_rows("augment-crop-try", [0.7] * 3, [0.7] * 3)
    )
    epochs += epoch_rows("augment-crop", [0.7] * EPOCHS, [0.72] * EPOCHS)
    variants = [
        variant_row("augment-none-try", "none"),
        variant_row("augment-crop-try", "crop"),
        variant_row("augment-crop", "crop"),
        variant_row("augment-none", "none", chosen=True),
    ]
    first, why = reasons_for(epochs, variants)
    assert first.startswith("No policy") and why.startswith("The policy crop reached 0.720: it is underfit")


def test_a_policy_trained_with_several_seeds_is_judged_by_its_mean_score() -> None:
    second_seed = epoch_rows("augment-crop", [0.9] * EPOCHS, [0.5] * EPOCHS, seed=1)
    epochs = PLAIN + epoch_rows("augment-crop", [0.9] * EPOCHS, [0.7] * EPOCHS) + second_seed
    variants = [variant_row("augment-crop", "crop"), variant_row("augment-none", "none", chosen=True)]
    _, why, seeds = reasons_for(epochs, variants)
    assert (
        why.startswith("The policy crop reached 0.600: it is overfit")
        and seeds == "Scores here are means over 2 seeds."
    )


def test_the_page_shows_the_verdict_and_says_when_held_out_images_are_evaluated() -> None:
    tables = factory.tables()
    some = {name: tables[name] for name in ("epochs", "variants", "evaluations", "datasets")}
    words = " ".join(Page(page_of(some, factory.study())).words.split())
    assert "Why augmentation did not help: No policy beat training without augmentation" in words
    assert "crop_flip reached 0.9" in words and "Chance alone can make such a difference" in words
    assert "held-out (test) images are evaluated once, when training has ended" in words
