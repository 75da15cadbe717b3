"""The cells of the report's tables: what is shown of a value, or why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.report.folding import fold
from tasks.tables.figures import drop_words, interval, points, resolved, sig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import polars as pl

    from flows.report.columns import Spec

Row = dict[str, Any]
"""A row of a table: name of a column -> value."""
MARKS = {"winner": "★", "provisional": "?", "runner-up": "2", "reference": "R"}
"""The part that a row of the summary plays -> its mark in narrow tables, in the order in which rows are shown."""
ABSENT = "–"
"""The text of a cell without a value."""
ABSENT_WHY = {
    "process_std_ms": "it ran in one process only",
    "images_per_second_std": "it was measured in one round only",
    "trouble": "nothing was bad",
    "cpu_governor": "the kernel does not say (is this a virtual machine?)",
    "power_w": "this machine has no meter that can be read",
    "note": "there is nothing to add",
    "target_rate": "only the server scenario has it",
    "kept": "only the server scenario has it",
    "achieved_rate": "no rate was worth trying: one query alone exceeds the limit",
    "limit_ms": "only the server scenario has it",
    "throughput": "the study did not ask for it",
    "precision": "no image was given this class",
    "recall": "no image is of this class",
    "taken_for": "no image was given another class",
    "within": "the predictions on the same images are not known",
    "why_not": "it is the winner",
    "before": "it is the original",
    "agreement": "it is the original",
    "logit_difference": "it is the original",
    "cost": "this hop loses at most half of it",
    "latency": "it saves no more than noise",
    "macro_f1_std": "it was trained with one seed only",
    "epoch_seconds": "it was trained for one epoch only",
    "times": "it was trained for one epoch only",
    "epoch_seconds_low": "it was trained for one epoch only",
    "epoch_seconds_high": "it was trained for one epoch only",
    "verdict": "this is the training without techniques, or there are fewer than four epochs to compare",
}
"""Column -> why its cell may be empty."""
PLACES = {"runtime": "{}", "device": "{}", "batch_size": "batch {}"}
"""Column that says where a row was measured -> how it is written below the row's name on a narrow page."""
SAYS_WHY = ("variant", "name", "adjusted", "technique")
"""Text columns that show the reason below where a row is not ok, or was measured under bad conditions."""
OF_A_CLASS = ("precision", "recall", "f1")
"""Columns of the scores of one class."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    """What is read."""
    sort: float | str | None = None
    """What the column is sorted by."""
    why: str = ""
    """An explanation, shown when the cell is pointed at."""
    number: bool = True
    """Whether the column holds numbers."""
    below: str = ""
    """A second, small line."""
    place: str = ""
    """For a column that says where a row was measured: the text that stands below the row's name on a narrow page,
    which has no room for such columns."""


@dataclass(frozen=True)
class Grid:
    """A table of the report."""

    headers: list[tuple[str, str]]
    """Header and unit of each column."""
    rows: list[tuple[str, str, list[Cell]]]
    """CSS class, part that the row plays, and cells of each row."""
    caption: str
    folded: list[tuple[str, list[str]]]
    """Skipped rows, which are not among `rows`: the line that stands for those of one reason, and their names."""

    @property
    def numbers(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [cell.number for cell in self.rows[0][2]] if self.rows else [False] * len(self.headers)

    @property
    def places(self) -> list[bool]:
        """Whether each column says where a row was measured."""
        return [bool(cell.place) for cell in self.rows[0][2]] if self.rows else [False] * len(self.headers)


def fact(key: str, value: Any) -> str:
    """Return a fact about the machine, from the table `environments`, in words."""
    if value is None:
        return "not known" if key == "cpu_governor" else "none"
    if key == "libraries":
        return ", ".join(f"{name} {version}" for name, version in json.loads(value).items())
    if key.endswith("_bytes"):
        return f"{sig(value / 1e9)} GB"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _absent(row: Mapping[str, Any], key: str) -> str:
    """Return why a cell of a row is empty."""
    if row.get("error"):
        return f"{row['status']}: {row['error']}"
    if "_p9" in key:
        return "fewer samples than this percentile needs"
    if key.startswith("energy"):
        return "this machine has no meter that can be read; the certificates say why"
    if key.startswith(("vram", "gpu")):
        return "only a GPU has it"
    return ABSENT_WHY.get(key, "this stage does not measure it")


def cell(row: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> Cell:
    """Return the cell of `row[key]`: the value as `write` writes it, or a dash and why there is none."""
    value = row.get(key)
    reason = row.get("error") or row.get("conditions") or ""
    if key == "status":
        text = _status(row)
        return Cell(text, text, reason, number=False)
    if key in PLACES and value is not None:
        return Cell(write(value), value, number=write is not str, place=PLACES[key].format(value))
    if value is None:
        return Cell(ABSENT, None, _absent(row, key), write is not str)
    if isinstance(value, str | bool):
        return Cell(write(value), str(value), number=False, below=reason if key in SAYS_WHY else "")
    return _figure(row, key, write)


def _status(row: Mapping[str, Any]) -> str:
    if row.get("status") != "ok":
        return str(row.get("status"))
    if row.get("conditions"):
        return "marked"
    return "stopped early" if row.get("stopped_early") else "ok"


def _figure(row: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> Cell:
    """Return the cell of a number, explained by its interval or by its conditions where it has them."""
    value = row[key]
    if key == "speedup" and row.get("speedup_low") is not None:
        return _speed_up(row, write)
    if key == "drop" and row.get("drop_low") is not None:
        between = " to ".join(points(row[end], row["drop_images"]) for end in ("drop_low", "drop_high"))
        return Cell(points(value, row["drop_images"]), value, drop_words(row), below=between)
    if key == "throughput" and row.get("throughput_conditions"):
        return Cell(f"{write(value)}*", value, f"measured under bad conditions: {row['throughput_conditions']}")
    stem, unit = (key.removesuffix("_ms"), "_ms") if key.endswith("_ms") else (key, "")
    low, high = row.get(f"{stem}_low{unit}"), row.get(f"{stem}_high{unit}")
    if low is None or high is None:
        return Cell(write(value), value)
    confidence = 95 if key in ("top1", "macro_f1", *OF_A_CLASS) else 99
    why = f"{confidence} % interval {write(low)} to {write(high)}"
    return Cell(write(value), value, why, below=f"{write(low)}–{write(high)}" if key in OF_A_CLASS else "")


def _speed_up(row: Mapping[str, Any], write: Callable[[Any], str]) -> Cell:
    """Return the cell of the speed-up, its interval below it. It is a dash where the interval is too wide to say
    anything."""
    low, high = row["speedup_low"], row["speedup_high"]
    below = interval(low, high)
    known = resolved(low, high)
    ends = below if known or high is None else f"{sig(low)} to {sig(high)}, as {below}"
    why = f"{row['verdict']}, 99 % interval: {ends}"
    if not known:
        return Cell(ABSENT, None, why, below=below)
    return Cell(write(row["speedup"]), row["speedup"], why, below=below)


def grid(specs: Sequence[Spec], rows: Iterable[Mapping[str, Any]], caption: str) -> Grid | None:
    """Return a table of rows, None without rows. Two or more skipped rows of one reason become a line below it."""
    shown, folded = fold(rows, least=2)
    lines = []
    for row in shown:
        role = row.get("role") or ""
        cells = [cell(row, key, write) for _, _, key, write in specs]
        lines.append((f"{role} {row.get('status', 'ok')}".strip(), role, cells))
    if not lines and not folded:
        return None
    return Grid([(name, unit) for name, unit, _, _ in specs], lines, caption, folded)


def in_order(summary: pl.DataFrame, batch: int) -> list[Row]:
    """Return the rows of the summary in the order in which they are shown.

    Rows that play a part come first, then those of the compared batch size, then the other batch sizes. Within a batch
    size, rows that are ok come first, by device and latency.
    """
    parts = [*MARKS, None]
    return sorted(
        summary.to_dicts(),
        key=lambda row: (
            parts.index(row["role"]),
            row["batch_size"] != batch,
            row["batch_size"],
            row["status"] != "ok",
            row["device"],
            row["latency_median_ms"] or 0.0,
            row["variant"],
        ),
    )


def adjusted(text: str) -> str:
    """Return the settings of a trial or a technique, which are JSON, in words."""
    settings = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in json.loads(text).items()
    ]
    return ", ".join(settings) or "the study's own"
