"""Find out what a study's images can show about its accuracy rule, and what they cannot.

A rule is met vacuously where the images could not have shown a breach, or where the reference is no better than a
guess, so that nothing could be lost. A caution beside the winner says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measure.handful import handful
from tasks.measure.metrics import FEW, images_needed, smallest_drop, wilson
from tasks.tables.figures import METRIC_NAMES, drop_words, exact_points, points, whole
from tasks.tables.pairs import drop_columns
from tasks.tables.rule import EPS, KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from tasks.measure.drops import Drop
    from tasks.records import Select, Study
    from tasks.tables.rule import Row

    Tables = Mapping[str, pl.DataFrame | pl.LazyFrame]


@dataclass(frozen=True)
class Evidence:
    """What the images show of the accuracy rule."""

    drop: str = ""
    """A sentence or two on the drop of the winner or provisional best, and on the smallest drop that the test images
    can resolve. Empty where there is nothing to say."""
    cautions: tuple[str, ...] = ()
    """Why the rule is met vacuously, a sentence or two per reason. They are shown before the winner."""


def evidence(tables: Tables, study: Study, reference: Row | None, chosen: Drop | None) -> Evidence:
    """Return what the images show of the rule `study.select`.

    Parameters
    ----------
    tables
        The table `evaluations`, and `datasets` and `variants` where a run has them. They may be lazy.
    reference
        Row of the summary.
    chosen
        The drop of the winner or the provisional best. None where it is not known, or where that is the reference.
    """
    if reference is None:
        return Evidence()
    images, select = _images(tables, reference), study.select
    too_few = smallest_drop(images) > select.max_drop
    cautions = _no_better_than_a_guess(tables, reference, images, select.max_drop)
    if too_few and images < FEW:
        cautions.append(_resolution(images, select.max_drop))
    cautions += _few_to_choose_by(tables)
    if chosen is not None:
        drop = _drop(chosen, select)
        if not (too_few and images < FEW):
            drop += f" {_verdict(chosen, select)}"
    elif too_few and images >= FEW:
        drop = _resolution(images, select.max_drop)
    else:
        drop = ""
    return Evidence(drop, tuple(cautions))


def count(number: int, kind: str = "") -> str:
    """Return a number of images in words, e.g. "1 test image"."""
    return f"{whole(number)} {kind}{' ' if kind else ''}image{'' if number == 1 else 's'}"


def commonest(tables: Tables) -> tuple[str, float] | None:
    """Return the commonest class of the test images and its share of them, None without a table `datasets`."""
    if "datasets" not in tables:
        return None
    for row in tables["datasets"].lazy().collect().iter_rows(named=True):
        if row["split"] == "test":
            most = max(range(len(row["class_rows"])), key=lambda number: row["class_rows"][number])
            return row["class_names"][most], row["class_rows"][most] / row["rows"]
    return None


def _images(tables: Tables, reference: Row) -> int:
    """Return the number of test images that the reference was scored on."""
    rows = tables["evaluations"].lazy().filter(**{key: reference[key] for key in KEY}).collect()
    return int(rows["images"][0])


def _no_better_than_a_guess(tables: Tables, reference: Row, images: int, allowed: float) -> list[str]:
    """Return cautions where the reference, or a form that loses all that is allowed, may be no better than a guess.

    The guess is to give every image the commonest class.
    """
    guess = commonest(tables)
    if guess is None or reference["top1"] is None:
        return []
    name, share = guess
    top1 = reference["top1"]
    always = f"always naming the commonest class ({name!r}, {share:.3f} of the test images)"
    low, high = wilson(top1, images)
    if top1 <= share + EPS:
        caution = f"The reference's top-1 of {top1:.3f} is no better than {always}, so no drop proves anything."
        return [caution, *_notes(tables, reference)]
    if low <= share:
        caution = (
            f"The reference's top-1 of {top1:.3f} (95 % interval {low:.3f} to {high:.3f}, {count(images)}) is not "
            f"shown to be better than {always}, so no drop proves anything."
        )
        return [caution, *_notes(tables, reference)]
    if top1 - allowed <= share + EPS:
        lost = exact_points(allowed)
        return [f"The allowed drop of {lost} lets even {always} pass: the reference's top-1 is {top1:.3f}."]
    return []


def _notes(tables: Tables, reference: Row) -> list[str]:
    """Return what training noted about the reference's weights, under whichever name they are in `variants`."""
    if "variants" not in tables:
        return []
    variants = tables["variants"].lazy().collect()
    # A run of an older version of burnish has no notes.
    if "note" not in variants.columns:
        return []
    weights = variants.filter(variants["name"] == reference["variant"])["sha256"].to_list()
    notes = variants.filter(variants["sha256"].is_in(weights))["note"].drop_nulls()
    return notes.unique(maintain_order=True).to_list()


def _few_to_choose_by(tables: Tables) -> list[str]:
    """Return a caution where choices were made on a handful of validation images."""
    if "datasets" not in tables:
        return []
    rows = tables["datasets"].lazy().collect().iter_rows(named=True)
    cautions = [handful(row["rows"]) for row in rows if row["split"] == "validation"]
    return [f"{caution}." for caution in cautions if caution]


def _resolution(images: int, allowed: float) -> str:
    """Return a sentence that a number of test images is too small to show a drop as small as the allowed one."""
    sentence = (
        f"{count(images, 'test')} cannot judge a drop of {exact_points(allowed)}: the smallest that {_they(images)} "
        f"can resolve is {points(smallest_drop(images), images)} points (95 % confidence)"
    )
    if allowed <= 0:
        return f"{sentence}, and no number of images resolves a drop of 0."
    return f"{sentence}; at least {whole(images_needed(allowed))} would be needed."


def _they(images: int) -> str:
    return "it" if images == 1 else "they"


def _drop(drop: Drop, select: Select) -> str:
    """Return a sentence on the images that changed, and on the drop with its interval and what would settle it."""
    return (
        f"Of {count(drop.images, 'test')}, {drop.lost} turned from right to wrong and {drop.mended} from wrong to "
        f"right: {METRIC_NAMES[select.metric]} {drop_words(drop_columns(drop, select.max_drop))}."
    )


def _verdict(drop: Drop, select: Select) -> str:
    """Return how sure it is that the drop is within the allowed one."""
    kept = f"that the allowed drop of {exact_points(select.max_drop)} is kept"
    certainty = drop.within(select.max_drop)
    if certainty == "shown":
        return f"So they show {kept}."
    if certainty == "likely":
        return f"So it is likely (80 % confidence), but not shown (95 %), {kept}."
    if drop.exceeds(select.max_drop):
        return f"So they show that the allowed drop of {exact_points(select.max_drop)} is not kept."
    return f"So they do not show {kept}."
