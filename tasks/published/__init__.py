"""Published studies, a file each: their figures as facts, and where this study's own stand in the tables.

A file has HARDWARE (what the study names as its machine) and `compare(tables)`. Published figures are compared with,
never taken for a result: what was not measured here is a dash.
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
ABSENT = "–"
BAD = "*"
"""Behind a time that was measured under bad conditions."""
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Line:
    """One row of a study's table: the figures that were published and those measured here; None: there are none."""

    key: tuple[str, ...]
    published: tuple[str, ...] | None
    here: tuple[str, ...] | None


@dataclass(frozen=True)
class Comparison:
    """A study's own table with both sources of figures."""

    title: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What is wrong with the published figures, what ours are, and what a cell's mark says."""


class Marks:
    """What stands under a table instead of in a cell of figures: each reason once, with the mark that its cells
    carry."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """The mark of a reason, superscript figures from 1."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return str(self.reasons.index(reason) + 1).translate(SUPERSCRIPT)

    def outcome(self, row: Row) -> str:
        """What a row that is not ok has in place of its first figure."""
        return row["status"] + self.mark(f"{row['status']}: {row['error']}")

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"{self.mark(reason)} {reason}" for reason in self.reasons)


@dataclass(frozen=True)
class Published:
    """All of a study's tables, and the hardware of both sources."""

    there: str
    here: str
    comparisons: tuple[Comparison, ...]


def compare(name: str, tables: Tables) -> Published:
    """The tables of the published study `name`, with this run's figures beside them."""
    study = importlib.import_module(f"tasks.published.{name}")
    return Published(study.HARDWARE, _here(tables), tuple(study.compare(tables)))


def _here(tables: Tables) -> str:
    """Machine and images of this run in words."""
    said = []
    for row in rows(tables, "environments"):
        said.append(f"{row['cpu_model']}, {row['cpu_cores']} cores, {row['gpu'] or 'no GPU'}")
    splits = rows(tables, "datasets")
    if splits:
        counts = ", ".join(f"{row['rows']} {row['split']}" for row in splits)
        side = splits[0]["image_size"]
        said.append(f"{images(splits[0])} ({counts} images of {side}\u00d7{side} pixels)")
    return "; ".join(said) or "not known"


def images(split: Row) -> str:
    """What figures on the images of a row of `datasets` are to be called; an older version of burnish did not say
    it."""
    return split.get("label") or split["path"] or split["source"]


def images_here(tables: Tables) -> str:
    """The same of this run's images."""
    return next((images(row) for row in rows(tables, "datasets")), "not known")


def rows(tables: Tables, name: str, where: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Rows of a table that may not have been published."""
    return [row for row in tables[name].iter_rows(named=True) if where(row)] if name in tables else []


def figure(value: float | None, write: Callable[[float], str] = sig) -> str:
    """A figure, or a dash where there is none."""
    return ABSENT if value is None else write(value)


def timed(row: Row, name: str = "latency_median_ms") -> str:
    """A time of a row of `summary`, with a star where it was measured under bad conditions."""
    return starred(row[name], bool(row["conditions"]))


def starred(value: float | None, bad: bool) -> str:
    """A figure, with a star where it was measured under bad conditions."""
    return figure(value) + (BAD if bad and value is not None else "")


def percent(row: Row | None, name: str) -> str:
    """A share in per cent, with its 95 % interval where the table has one."""
    if row is None or row.get(name) is None:
        return ABSENT
    ends = (row.get(f"{name}_low"), row.get(f"{name}_high"))
    return between(row[name], *ends, lambda value: f"{100 * value:.1f}")


def between(value: float, low: float | None, high: float | None, write: Callable[[float], str] = sig) -> str:
    """A figure and its interval, which no line break tears."""
    return write(value) if low is None or high is None else f"{write(value)} [{write(low)}–{write(high)}]"


def duration(seconds: float) -> str:
    """Seconds below a minute, minutes below an hour, else hours."""
    unit, name = next((unit, name) for unit, name in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= unit)
    return f"{sig(seconds / (unit or 1))} {name}"


def times(tables: Tables, base: Row | None, row: Row) -> tuple[str, str | None]:
    """How many times as fast a row of `summary` is as another, with the 99 % interval of paired rounds; the verdict on
    it.

    A dash and no verdict where one of the two was not measured, or their rounds do not pair.
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
    """The row of `benchmarks` that a row of `summary` is of; empty where it was not measured."""
    where = ("variant", "runtime", "device", "batch_size")
    found = rows(tables, "benchmarks", lambda one: one["status"] == "ok" and all(one[key] == row[key] for key in where))
    return found[0] if found else {}


def same(tables: Tables, variant: Row) -> set[str]:
    """Names of the weights of a row of `variants`: what a stage keeps goes on under a name of that stage."""
    return {row["name"] for row in rows(tables, "variants", lambda row: row["sha256"] == variant["sha256"])}


def score(tables: Tables, variant: Row) -> Row | None:
    """The evaluation of weights on the held-out images: of the training stage, or of PyTorch eager's benchmark."""
    names = same(tables, variant)
    found = {row["runtime"]: row for row in rows(tables, "evaluations", lambda row: row["variant"] in names)}
    return found.get("training") or found.get("eager")


def fastest(found: list[Row]) -> Row | None:
    """The row of the smallest median latency among those that were measured."""
    measured = [row for row in found if row["status"] == "ok"]
    return min(measured, key=lambda row: row["latency_median_ms"], default=None)


def one_device(found: list[Row]) -> list[Row]:
    """Rows of the GPU where one was measured, else of the CPU."""
    gpu = [row for row in found if row["device"].startswith("cuda") and row["status"] == "ok"]
    return gpu or [row for row in found if row["device"] == "cpu"]
