"""Published studies, a file each: their figures as facts, and where this study's own stand in the tables.

A file has HARDWARE (what the study names as its machine) and `compare(tables)`. Published figures are compared with, never
taken for a result: what was not measured here is a dash.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.summary import sig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    Tables = Mapping[str, pl.DataFrame]

Row = dict[str, Any]
ABSENT = "–"
BAD = "*"
"""Behind a time that was measured under bad conditions."""


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
    """What is wrong with the published figures, and what ours are."""


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
    splits = {row["split"]: row for row in rows(tables, "datasets")}
    if splits:
        first = next(iter(splits.values()))
        counts = ", ".join(f"{row['rows']} {split}" for split, row in splits.items())
        said.append(f"{first['path'] or first['source']} ({counts} images of {first['image_size']} pixels)")
    return "; ".join(said) or "not known"


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
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    ends = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * row[name]:.1f}{ends}"


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
