"""Compare the predictions of candidates with those of another one, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.measure.drops import Drop, macro_f1_drop, top1_drop
from tasks.tables.rule import KEY

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Key = tuple[str, str, str]
"""A candidate: variant, runtime, device."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Return which candidate a row is about."""
    variant, runtime, device = (row[name] for name in KEY)
    return variant, runtime, device


def drops(
    tables: Mapping[str, pl.DataFrame | pl.LazyFrame], reference: Key, metric: str, among: Collection[Key] | None = None
) -> dict[Key, Drop]:
    """Return by how much each candidate is less accurate than `reference` on the images that both classified.

    The reference itself is left out, and so are candidates whose predictions are not known. An image that is there
    twice makes the table unfit to be published, which its expectations say; no drop is taken from such predictions.

    Parameters
    ----------
    tables
        The table `predictions` is used, where there is one. It may be lazy.
    metric
        The measure of accuracy: "top1" or "macro_f1".
    among
        The candidates of interest. None: all.
    """
    if "predictions" not in tables:
        return {}
    predictions = tables["predictions"].lazy()
    before = predictions.filter(**dict(zip(KEY, reference, strict=True))).select("image", before="prediction").collect()
    if before.is_empty() or before["image"].n_unique() < len(before):
        return {}
    if among is not None:
        wanted = pl.DataFrame(list(among), schema=dict.fromkeys(KEY, pl.String), orient="row").lazy()
        predictions = predictions.join(wanted, on=KEY, how="semi")
    both = predictions.join(before.lazy(), on="image")
    cases = both.group_by(*KEY, "label", "before", after="prediction").agg(images=pl.len())
    whole = both.group_by(KEY).agg(twice=pl.col("image").n_unique() < pl.len())
    counted, complete = pl.collect_all([cases.sort("label", "before", "after"), whole], engine="streaming")
    unfit = {key_of(row) for row in complete.filter("twice").iter_rows(named=True)}
    compared = {}
    for group in counted.partition_by(KEY, maintain_order=True):
        key = key_of(group.row(0, named=True))
        if key != reference and key not in unfit:
            compared[key] = _drop(group, metric)
    return compared


def _drop(cases: pl.DataFrame, metric: str) -> Drop:
    """Return the drop of one candidate. Each row is a case (label, before, after) with the number of its images."""
    if metric == "macro_f1":
        labels, before, after, images = (cases[name].to_numpy() for name in ("label", "before", "after", "images"))
        return macro_f1_drop(labels, before, after, images)
    was_right = pl.col("before") == pl.col("label")
    is_right = pl.col("after") == pl.col("label")
    lost = cases.filter(was_right & ~is_right)["images"].sum()
    mended = cases.filter(~was_right & is_right)["images"].sum()
    return top1_drop(int(lost), int(mended), int(cases["images"].sum()))


def drop_columns(drop: Drop, allowed: float | None = None) -> dict[str, Any]:
    """Return a drop as columns of the summary; with the allowed drop also how sure it is to be within it."""
    columns: dict[str, Any] = {
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "drop_images": drop.images,
    }
    if allowed is not None:
        columns |= {"within": drop.within(allowed), "images_to_settle": drop.images_to_settle(allowed)}
    return columns
