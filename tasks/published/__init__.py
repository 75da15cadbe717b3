"""Published studies, one file per study: the figures that it published, and this run's figures for the same things.

A file has HARDWARE (what the study names as its machine) and `compare(tables)`. Published figures are only shown beside
this run's. They never stand in for a result: what this run did not measure is a dash.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.measure.intervals import compare_rounds, rounds_of
from tasks.tables.figures import interval, sig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    Tables = Mapping[str, pl.DataFrame]

Row = dict[str, Any]
"""A row of one of the run's tables: name of a column -> value."""
ABSENT = "–"
"""The cell of a figure that does not exist."""
BAD = "*"
"""Follows a time that was measured under bad conditions."""
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Line:
    """One row of a study's table, with the figures of both sources."""

    key: tuple[str, ...]
    """Cells that name the row, one per entry of `Comparison.keys`."""
    published: tuple[str, ...] | None
    """Cells with the published figures, one per entry of `Comparison.columns`. None: the study has none."""
    measured: tuple[str, ...] | None
    """Cells with this run's figures for the same columns. None: the run has none."""


@dataclass(frozen=True)
class Comparison:
    """A table of a published study, with this run's figures beside the published ones."""

    title: str
    keys: tuple[str, ...]
    """Headers of the columns that name a row."""
    columns: tuple[str, ...]
    """Headers of the columns of figures."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What is wrong with the published figures, how this run's were measured, and what the marks in cells mean."""


class Marks:
    """Reasons that are too long for a cell. Each stands once below the table, and its cells have a mark instead."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """Return the mark of a reason: its number, from 1, as superscript."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return str(self.reasons.index(reason) + 1).translate(SUPERSCRIPT)

    def outcome(self, row: Row) -> str:
        """Return what a row that is not ok has in place of its first figure: its status, marked with its error."""
        return row["status"] + self.mark(f"{row['status']}: {row['error']}")

    @property
    def notes(self) -> tuple[str, ...]:
        """The reasons, each after its mark."""
        return tuple(f"{self.mark(reason)} {reason}" for reason in self.reasons)


@dataclass(frozen=True)
class Published:
    """All tables of a published study, and the hardware of both sources."""

    published_on: str
    """The hardware that the study names."""
    measured_on: str
    """The hardware and the images of this run."""
    comparisons: tuple[Comparison, ...]


def compare(name: str, tables: Tables) -> Published:
    """Return the tables of the published study `name`, with this run's figures beside the published ones."""
    study = importlib.import_module(f"tasks.published.{name}")
    return Published(study.HARDWARE, _measured_on(tables), tuple(study.compare(tables)))


def _measured_on(tables: Tables) -> str:
    """Return, in words, the machine that this run measured on and how many images each split has."""
    parts = []
    for row in rows(tables, "environments"):
        parts.append(f"{row['cpu_model']}, {row['cpu_cores']} cores, {row['gpu'] or 'no GPU'}")
    splits = rows(tables, "datasets")
    if splits:
        counts = ", ".join(f"{row['rows']} {row['split']}" for row in splits)
        side = splits[0]["image_size"]
        parts.append(f"{data_set_name(splits[0])} ({counts} images of {side}\u00d7{side} pixels)")
    return "; ".join(parts) or "not known"


def data_set_name(split: Row) -> str:
    """Return the name of the images of a row of `datasets`, under which figures measured on them are shown."""
    # An older version of burnish wrote no label.
    return split.get("label") or split["path"] or split["source"]


def images_here(tables: Tables) -> str:
    """Return the name of the images that this run measured on."""
    return next((data_set_name(row) for row in rows(tables, "datasets")), "not known")


def rows(tables: Tables, name: str, where: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Return the rows of a table that meet a condition. A table that was not published has none."""
    return [row for row in tables[name].iter_rows(named=True) if where(row)] if name in tables else []


def figure(value: float | None, write: Callable[[float], str] = sig) -> str:
    """Return a figure in words, or a dash where there is none."""
    return ABSENT if value is None else write(value)


def timed(row: Row, name: str = "latency_median_ms") -> str:
    """Return a time of a row of `summary`, with a star where it was measured under bad conditions."""
    return starred(row[name], bool(row["conditions"]))


def starred(value: float | None, bad: bool) -> str:
    """Return a figure in words, with a star where it was measured under bad conditions."""
    return figure(value) + (BAD if bad and value is not None else "")


def percent(row: Row | None, name: str) -> str:
    """Return a share in per cent, with its 95 % interval where the row has one."""
    if row is None or row.get(name) is None:
        return ABSENT
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return between(row[name], low, high, lambda value: f"{100 * value:.1f}")


def between(value: float, low: float | None, high: float | None, write: Callable[[float], str] = sig) -> str:
    """Return a figure and its interval, or the figure alone where an end of the interval is not known."""
    return write(value) if low is None or high is None else f"{write(value)} [{write(low)}–{write(high)}]"


def duration(seconds: float) -> str:
    """Return a time in words: seconds below a minute, minutes below an hour, else hours."""
    unit, name = next((unit, name) for unit, name in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= unit)
    return f"{sig(seconds / (unit or 1))} {name}"


def times(tables: Tables, base: Row | None, row: Row) -> tuple[str, str | None]:
    """Return how many times as fast as `base` a row of `summary` is, with its 99 % interval, and the verdict on it.

    It is a dash without a verdict where one of the two was not measured, or their rounds do not pair.
    """
    if base is row:
        return sig(1), None
    theirs, ours = rounds(tables, base) if base else {}, rounds(tables, row)
    if not theirs or not ours:
        return ABSENT, None
    compared = compare_rounds(rounds_of(theirs, theirs["processes"]), rounds_of(ours, ours["processes"]))
    if compared is None:
        return ABSENT, None
    ratio, low, high, verdict = compared
    bad = BAD if theirs["conditions"] or ours["conditions"] else ""
    return f"{sig(ratio)} [{interval(low, high)}]{bad}", verdict


def rounds(tables: Tables, row: Row) -> Row:
    """Return the row of `benchmarks` of a row of `summary`, an empty one where it was not measured."""
    place = ("variant", "runtime", "device", "batch_size")

    def same_place(other: Row) -> bool:
        return other["status"] == "ok" and all(other[key] == row[key] for key in place)

    return next(iter(rows(tables, "benchmarks", same_place)), {})


def names_of_weights(tables: Tables, variant: Row) -> set[str]:
    """Return all names under which the weights of a row of `variants` stand in that table.

    A stage that keeps its parent's weights writes them under a name of its own.
    """
    return {row["name"] for row in rows(tables, "variants", lambda row: row["sha256"] == variant["sha256"])}


def score(tables: Tables, variant: Row) -> Row | None:
    """Return the evaluation of weights on the held-out images, by the stage that trained them or in PyTorch eager."""
    names = names_of_weights(tables, variant)
    by_runtime = {row["runtime"]: row for row in rows(tables, "evaluations", lambda row: row["variant"] in names)}
    return by_runtime.get("training") or by_runtime.get("eager")


def fastest(candidates: list[Row]) -> Row | None:
    """Return the row with the smallest median latency among those that were measured."""
    measured = [row for row in candidates if row["status"] == "ok"]
    return min(measured, key=lambda row: row["latency_median_ms"], default=None)


def one_device(candidates: list[Row]) -> list[Row]:
    """Return the rows of the GPU where one was measured, else those of the CPU."""
    gpu = [row for row in candidates if row["device"].startswith("cuda") and row["status"] == "ok"]
    return gpu or [row for row in candidates if row["device"] == "cpu"]
