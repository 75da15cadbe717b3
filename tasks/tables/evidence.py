"""Find out what a study's images can show about its accuracy rule, and what they cannot.

A rule is met vacuously where the images could not have shown a breach, or where the reference is no better than a
guess, so that nothing could be lost. A caution beside the winner says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measure.handful import handful
from tasks.measure.metrics import FEW, images_needed, paired_drop, smallest_drop, wilson
from tasks.tables.rule import EPS, KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

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


def evidence(tables: Tables, study: Study, reference: Row | None, chosen: Row | None) -> Evidence:
    """Return what the images show of the rule `study.select`.

    Parameters
    ----------
    tables
        The table `evaluations`, and `datasets`, `variants` and `predictions` where a run has them. They may be lazy.
    reference, chosen
        Rows of the summary. `chosen` is the winner or the provisional best.
    """
    if reference is None:
        return Evidence()
    images, select = _images(tables, reference), study.select
    too_few = smallest_drop(images) > select.max_drop
    cautions = _no_better_than_a_guess(tables, reference, images, select.max_drop)
    if too_few and images < FEW:
        cautions.append(_resolution(images, select.max_drop))
    cautions += _few_to_choose_by(tables)
    changes = None
    if chosen is not None and any(chosen[key] != reference[key] for key in KEY):
        changes = _changes(tables, reference, chosen)
    if changes is not None:
        drop = _drop(*changes)
        if not (too_few and images < FEW):
            drop += f" {_verdict(*changes, select)}"
    elif too_few and images >= FEW:
        drop = _resolution(images, select.max_drop)
    else:
        drop = ""
    return Evidence(drop, tuple(cautions))


def count(number: int, kind: str = "") -> str:
    """Return a number of images in words, e.g. "1 test image"."""
    return f"{_whole(number)} {kind}{' ' if kind else ''}image{'' if number == 1 else 's'}"


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
        return [f"The allowed drop of {allowed:g} lets even {always} pass: the reference's top-1 is {top1:.3f}."]
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
        f"{count(images, 'test')} cannot judge a drop of {allowed:g}: the smallest that {_they(images)} can resolve is "
        f"{_share(smallest_drop(images))} (95 % confidence)"
    )
    if allowed <= 0:
        return f"{sentence}, and no number of images resolves a drop of 0."
    return f"{sentence}; at least {_whole(images_needed(allowed))} would be needed."


def _they(images: int) -> str:
    return "it" if images == 1 else "they"


def _changes(tables: Tables, reference: Row, chosen: Row) -> tuple[int, int, int] | None:
    """Return how many test images the chosen form has newly wrong, how many newly right, and how many there are.

    None where the predictions of both on the same images are not known.
    """
    import polars as pl

    if "predictions" not in tables:
        return None

    def right(row: Row, column: str) -> pl.LazyFrame:
        predictions = tables["predictions"].lazy().filter(**{key: row[key] for key in KEY})
        return predictions.select("image", **{column: pl.col("prediction") == pl.col("label")})

    both = right(reference, "before").join(right(chosen, "after"), on="image").collect()
    # An image that is there twice makes the table unfit to be published, which its expectations say.
    if both.is_empty() or both["image"].n_unique() < len(both):
        return None
    lost = int((both["before"] & ~both["after"]).sum())
    mended = int((both["after"] & ~both["before"]).sum())
    return lost, mended, len(both)


def _drop(lost: int, mended: int, images: int) -> str:
    """Return a sentence on the drop in top-1, with its interval."""
    low, high = paired_drop(lost, mended, images)
    change = "gain" if mended > lost else "drop"
    return (
        f"Of {count(images, 'test')}, {lost} turned from right to wrong and {mended} from wrong to right: "
        f"a {change} in top-1 of {abs(lost - mended) / images:.3f}; the drop is between {low:.3f} and {high:.3f} "
        "with 95 % confidence."
    )


def _verdict(lost: int, mended: int, images: int, select: Select) -> str:
    """Return whether the images show that the drop is within the allowed one, and if not, how many images would."""
    allowed, high = select.max_drop, paired_drop(lost, mended, images)[1]
    likewise = " (macro F1 is resolved about as well as top-1)" if select.metric == "macro_f1" else ""
    if high <= allowed + EPS:
        return f"So they show that the allowed drop of {allowed:g} is kept{likewise}."
    resolved = max(high - (lost - mended) / images, smallest_drop(images))
    sentence = (
        f"So they do not show that the allowed drop of {allowed:g} is kept{likewise}: the smallest that they can "
        f"resolve is {_share(resolved)}"
    )
    if allowed <= 0:
        return f"{sentence}, and no number of images resolves a drop of 0."
    needed = int(float(f"{images_needed(allowed, (lost + mended) / images):.2g}"))
    return f"{sentence}; about {_whole(needed)} would be needed if the two are equally good."


def _share(value: float) -> str:
    """Return a share of images to two significant digits."""
    return f"{value:.2g}"


def _whole(number: int) -> str:
    """Return a whole number with a narrow space between its thousands."""
    return f"{number:,}".replace(",", "\u202f")
