"""What a study's images can show about its accuracy rule, and what they cannot.

A rule that is met because the images could not have shown a breach, or because the reference knows nothing that could
be lost, is met vacuously. That is said where the winner is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.measure.handful import handful
from tasks.measure.metrics import FEW, images_needed, paired_drop, smallest_drop, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from tasks.records import Select, Study

    Tables = Mapping[str, pl.DataFrame | pl.LazyFrame]

Row = dict[str, Any]
KEY = ("variant", "runtime", "device")
EPS = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What the images show of the accuracy rule."""

    drop: str = ""
    """A sentence or two on the chosen form's drop and on what the test images resolve; empty where nothing is to be
    said."""
    cautions: tuple[str, ...] = ()
    """Reasons why the rule is met vacuously, a sentence or two each. They are to be shown before the winner."""


def evidence(tables: Tables, study: Study, reference: Row | None, chosen: Row | None) -> Evidence:
    """What the images show of the rule `study.select`.

    Parameters
    ----------
    tables
        `evaluations`. Where they are there, also `datasets`, `variants` and `predictions` (which may be lazy).
    reference, chosen
        Rows of the summary; `chosen` is the winner or the provisional best.
    """
    if reference is None:
        return Evidence()
    images, select = _images(tables, reference), study.select
    few = images < FEW and smallest_drop(images) > select.max_drop
    cautions = _knows_nothing(tables, reference, images, select.max_drop)
    if few:
        cautions.append(_resolution(images, select.max_drop))
    cautions += _few_to_choose_by(tables)
    differs = chosen is not None and [chosen[key] for key in KEY] != [reference[key] for key in KEY]
    counts = _differences(tables, reference, chosen) if differs and chosen is not None else None
    if counts is not None:
        said = _drop(*counts) + ("" if few else f" {_verdict(*counts, select)}")
    else:
        said = _resolution(images, select.max_drop) if not few and smallest_drop(images) > select.max_drop else ""
    return Evidence(said, tuple(cautions))


def count(number: int, kind: str = "") -> str:
    """A number of images in words, e.g. "1 test image"."""
    return f"{_whole(number)} {kind}{' ' if kind else ''}image{'' if number == 1 else 's'}"


def commonest(tables: Tables) -> tuple[str, float] | None:
    """The commonest class of the test images and its share of them; None where the table `datasets` is not there."""
    if "datasets" not in tables:
        return None
    for row in tables["datasets"].lazy().collect().iter_rows(named=True):
        if row["split"] == "test":
            most = max(range(len(row["class_rows"])), key=lambda number: row["class_rows"][number])
            return row["class_names"][most], row["class_rows"][most] / row["rows"]
    return None


def _images(tables: Tables, reference: Row) -> int:
    """Test images that the reference was scored on."""
    rows = tables["evaluations"].lazy().filter(**{key: reference[key] for key in KEY}).collect()
    return int(rows["images"][0])


def _knows_nothing(tables: Tables, reference: Row, images: int, allowed: float) -> list[str]:
    """Cautions where the reference has nothing to lose, or where the rule lets pass a form that has lost it all."""
    found = commonest(tables)
    if found is None or reference["top1"] is None:
        return []
    name, share = found
    always = f"always naming the commonest class ({name!r}, {share:.3f} of the test images)"
    low, high = wilson(reference["top1"], images)
    if reference["top1"] <= share + EPS:
        told = (
            f"The reference's top-1 of {reference['top1']:.3f} is no better than {always}, so no drop proves anything."
        )
    elif low <= share:
        told = (
            f"The reference's top-1 of {reference['top1']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
            f"{count(images)}) is not shown to be better than {always}, so no drop proves anything."
        )
    elif reference["top1"] - allowed <= share + EPS:
        return [
            f"The allowed drop of {allowed:g} lets even {always} pass: the reference's top-1 is "
            f"{reference['top1']:.3f}."
        ]
    else:
        return []
    return [told, *_notes(tables, reference)]


def _notes(tables: Tables, reference: Row) -> list[str]:
    """What training noted about the reference's weights, under whatever name it was."""
    if "variants" not in tables:
        return []
    variants = tables["variants"].lazy().collect()
    # a run of an older version
    if "note" not in variants.columns:
        return []
    own = variants.filter(variants["name"] == reference["variant"])["sha256"].to_list()
    notes = variants.filter(variants["sha256"].is_in(own))["note"].drop_nulls()
    return notes.unique(maintain_order=True).to_list()


def _few_to_choose_by(tables: Tables) -> list[str]:
    if "datasets" not in tables:
        return []
    rows = tables["datasets"].lazy().collect().iter_rows(named=True)
    told = [handful(row["rows"]) for row in rows if row["split"] == "validation"]
    return [f"{words}." for words in told if words]


def _resolution(images: int, allowed: float) -> str:
    """What so many test images can show at best."""
    told = (
        f"{count(images, 'test')} cannot judge a drop of {allowed:g}: the smallest that {_they(images)} can resolve is "
        f"{_share(smallest_drop(images))} (95 % confidence)"
    )
    if allowed <= 0:
        return f"{told}, and no number of images resolves a drop of 0."
    return f"{told}; at least {_whole(images_needed(allowed))} would be needed."


def _they(images: int) -> str:
    return "it" if images == 1 else "they"


def _differences(tables: Tables, reference: Row, chosen: Row) -> tuple[int, int, int] | None:
    """Images that the reference alone has right, that the chosen form alone has right, and all; None where not
    known."""
    import polars as pl

    if "predictions" not in tables:
        return None
    right = pl.col("prediction") == pl.col("label")
    first, second = (
        tables["predictions"].lazy().filter(**{key: row[key] for key in KEY}).select("image", **{name: right})
        for row, name in ((reference, "theirs"), (chosen, "own"))
    )
    both = first.join(second, on="image").collect()
    # a table unfit to be published, which others say
    if both.is_empty() or both["image"].n_unique() < len(both):
        return None
    lost, mended = (int((both[a] & ~both[b]).sum()) for a, b in (("theirs", "own"), ("own", "theirs")))
    return lost, mended, len(both)


def _drop(lost: int, mended: int, images: int) -> str:
    """The drop in top-1 with its interval."""
    low, high = paired_drop(lost, mended, images)
    change = (
        f"a gain in top-1 of {(mended - lost) / images:.3f}"
        if mended > lost
        else (f"a drop in top-1 of {(lost - mended) / images:.3f}")
    )
    return (
        f"Of {count(images, 'test')}, {lost} turned from right to wrong and {mended} from wrong to right: "
        f"{change}; the "
        f"drop is between {low:.3f} and {high:.3f} with 95 % confidence."
    )


def _verdict(lost: int, mended: int, images: int, select: Select) -> str:
    """Whether the images show that the drop is within the allowed one, and if not, how many would."""
    allowed, high = select.max_drop, paired_drop(lost, mended, images)[1]
    likewise = " (macro F1 is resolved about as well as top-1)" if select.metric == "macro_f1" else ""
    if high <= allowed + EPS:
        return f"So they show that the allowed drop of {allowed:g} is kept{likewise}."
    resolved = max(high - (lost - mended) / images, smallest_drop(images))
    told = (
        f"So they do not show that the allowed drop of {allowed:g} is kept{likewise}: the smallest that they can "
        "resolve "
        f"is {_share(resolved)}"
    )
    if allowed <= 0:
        return f"{told}, and no number of images resolves a drop of 0."
    needed = images_needed(allowed, (lost + mended) / images)
    return f"{told}; about {_whole(int(float(f'{needed:.2g}')))} would be needed if the two are equally good."


def _share(value: float) -> str:
    """A share of images, to two significant digits."""
    return f"{value:.2g}"


def _whole(number: int) -> str:
    """A whole number, thousands apart."""
    return f"{number:,}".replace(",", "\u202f")
