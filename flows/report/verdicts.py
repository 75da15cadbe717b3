"""The report's sections on the verdict: why every candidate but one lost, and at which hop accuracy was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.report.columns import HOPS, OTHERS
from flows.report.grids import grid
from tasks.tables import hops
from tasks.tables.figures import exact_points
from tasks.tables.pairs import drop_columns, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flows.report.grids import Grid, Row
    from tasks.records import Select
    from tasks.tables.hops import Hop, Tables
    from tasks.tables.pairs import Key

SURELY = {"point": "", "likely": ", and is likely to lose no more", "shown": ", and is shown to lose no more"}
"""Value of `select.confidence` -> how sure the rule is, in words that follow the allowed drop."""


def rule(select: Select) -> Row:
    """Return the accuracy rule in words."""
    return {"allowed": exact_points(select.max_drop), "surely": SURELY[select.confidence]}


def others(compared: Sequence[Row]) -> Row:
    """Return the table of why each row of the compared batch size is not the winner, and which are on the Pareto front.

    A summary of an older version of burnish does not say why, and has no table.
    """
    if not compared or "why_not" not in compared[0]:
        return {}
    shown = []
    for row in compared:
        memory = row["ram_usage_bytes"] if row["device"] == "cpu" else row["vram_peak_bytes"]
        # The table says what is wrong with a row in a column of its own, not below its name.
        error = row["error"] if row["status"] == "skipped" else None
        shown.append({**row, "memory_bytes": memory, "conditions": None, "error": error})
    return {"others": grid(OTHERS, shown, "Every candidate at this batch size; press a header to sort")}


def every_hop(tables: Tables, select: Select) -> Grid | None:
    """Return the table of what each hop from the original on costs in accuracy: one row per candidate.

    None where no candidate was made from another one.
    """
    ways = hops.paths(tables, select.metric)
    evaluations = tables["evaluations"].lazy().collect().iter_rows(named=True)
    scores = {key_of(row): row[select.metric] for row in evaluations}
    rows = _rows(ways, scores, metric=select.metric, allowed=select.max_drop)
    hidden = {"top1", "macro_f1"} - {select.metric}
    # A run of an older version of burnish has no differences of logits.
    hidden |= {key for key in ("logit_difference", "cost") if all(row.get(key) is None for row in rows)}
    specs = [spec for spec in HOPS if spec[2] not in hidden]
    return grid(specs, rows, "Each candidate beside the one that it was made from, on the same images")


def _rows(ways: Mapping[Key, Sequence[Hop]], scores: Mapping[Key, float], *, metric: str, allowed: float) -> list[Row]:
    """Return one row per candidate, each original above what was made from it."""
    rows: dict[Key, Row] = {}
    for way in sorted(ways.values(), key=lambda way: [way[0].before, *(hop.after for hop in way)]):
        original = way[0].before
        rows.setdefault(original, {**_place(original), metric: scores[original]})
        rows[way[-1].after] = _row(way, metric, allowed)
    return list(rows.values())


def _row(way: Sequence[Hop], metric: str, allowed: float) -> Row:
    """Return the row of the candidate that a way ends in."""
    hop = way[-1]
    row = {
        **_place(hop.after),
        "before": hops.place(hop.before),
        "agreement": hop.agreement,
        "logit_difference": hop.logit_difference,
        metric: hop.score,
    }
    if hop.drop is not None:
        row |= drop_columns(hop.drop)
    if hop.costs(allowed):
        first = hops.costly(way, allowed) is hop
        row["cost"] = "more than half" if first else "more than half, after an earlier hop that lost as much"
    return row


def _place(key: Key) -> Row:
    return dict(zip(("variant", "runtime", "device"), key, strict=True))
