"""The report's sections on what was searched: how images are prepared, which layers matter, and what was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.report.columns import drop, share
from flows.report.grids import grid
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from flows.report.columns import Spec
    from flows.report.grids import Grid, Row

TRIED: list[Spec] = [
    ("Trial", "", "trial", str),
    ("Setting", "", "setting", str),
    ("In float", "blocks", "kept", str),
    ("For", "", "runtime", str),
    ("Latency", "ms", "latency_ms", sig),
    ("Divergence", "nats, first look", "look", sig),
    ("Drop", "points, taken to lose", "drop", drop),
    ("Time", "s", "seconds", sig),
    ("Ended", "", "ended", str),
]
LAYERS: list[Spec] = [
    ("Rank", "", "rank", str),
    ("Block", "", "block", str),
    ("Operators", "", "nodes", str),
    ("Divergence saved", "nats", "saved", sig),
    ("Latency", "× the int8 form", "latency", sig),
]
CONFIGURATIONS: list[Spec] = [
    ("Configuration", "", "configuration", str),
    ("Measured beside", "", "against", str),
    ("Latency", "× the other's", "ratio", sig),
    ("Faster", "rounds", "rounds_faster", str),
    ("Taken", "", "taken", str),
]
PREPARATIONS: list[Spec] = [
    ("Size", "pixels", "image_size", str),
    ("Shorter side", "pixels", "resize", str),
    ("Channels", "", "order", str),
    ("Mean", "", "mean", str),
    ("Standard deviation", "", "std", str),
    ("Order of classes", "", "class_order", str),
    ("Top-1", "share", "top1", share),
    ("Stated, not tried", "by", "told_by", str),
    ("Taken", "", "chosen", str),
]
ENDS = {
    "done": "scored on all validation images",
    "worse": "another is more faithful and faster",
    "slower": "slower than the file it is made of",
    "failed": "failed",
}
"""Value of the column `ended` of the table `search` -> what the report says."""
MOST_LAYERS = 12
"""Blocks of a ranking that are shown."""


def searches(tables: Mapping[str, pl.DataFrame]) -> Row:
    """Return the tables of the search: trials per model, rankings of layers and configurations per form and runtime."""
    tried = [
        grid(TRIED, [_ended(row) for row in rows], f"Trials of {parent}")
        for (parent,), rows in _groups(tables.get("search"), "parent")
    ]
    layers = [
        grid(LAYERS, rows[:MOST_LAYERS], f"{form} in {runtime}: what its layers gain from floating point")
        for (form, runtime), rows in _groups(tables.get("layers"), "form", "runtime")
    ]
    configurations = [
        grid(CONFIGURATIONS, [_taken(row) for row in rows], f"{form} in {runtime}: threads and options")
        for (form, runtime), rows in _groups(tables.get("configurations"), "form", "runtime")
    ]
    return {"tried": tried, "layers": layers, "configurations": configurations}


def _taken(row: Row) -> Row:
    words = {"taken": "yes" if row["taken"] else "no"}
    return row | (words if row["error"] is None else {"taken": f"failed: {row['error']}", "status": "failed"})


def _ended(row: Row) -> Row:
    words = ENDS[row["ended"]]
    status = "failed" if row["ended"] == "failed" else "ok"
    return row | {"ended": f"{words}: {row['error']}" if row["error"] else words, "status": status}


def preparations(tables: Mapping[str, pl.DataFrame]) -> list[Grid | None]:
    """Return a table per given model of the ways to prepare its images that were tried, the best first."""
    return [
        grid(PREPARATIONS, [_rounded(row) for row in rows], f"Ways to prepare the images of {model} that were tried")
        for (model,), rows in _groups(tables.get("preparations"), "model")
        if len(rows) > 1
    ]


def _rounded(row: Row) -> Row:
    """Return a row of `preparations` with its lists and its choice in words."""
    lists = {name: ", ".join(f"{value:.3g}" for value in row[name]) for name in ("mean", "std")}
    return row | lists | {"chosen": "yes" if row["chosen"] else "no"}


def _groups(table: pl.DataFrame | None, *by: str) -> Sequence[tuple[tuple[Any, ...], list[Row]]]:
    """Return the rows of a table by the values of some columns; none where there is no table.

    The rows get a status, which the tables of the report are drawn by.
    """
    if table is None:
        return []
    groups = table.group_by(by, maintain_order=True)
    return [(key, [{**row, "status": "ok"} for row in group.to_dicts()]) for key, group in groups]
