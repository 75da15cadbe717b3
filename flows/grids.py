"""The report's tables: which columns with which units, and how a figure is written for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.summary import sig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl

Row = dict[str, Any]
Spec = tuple[str, str, str, Callable[[Any], str]]
"""Header, unit, key of the row, how it is written (str: a text column)."""
MARKS = {"winner": "★", "runner-up": "2", "reference": "R"}
ABSENT = "–"
SAYS_WHY = ("variant", "name", "adjusted")
"""Text columns with the reason below where a row is not ok, or was measured under bad conditions."""


@dataclass(frozen=True)
class Cell:
    """A table cell: what is read, what it sorts by, what explains it."""

    text: str
    sort: float | str | None = None
    why: str = ""
    number: bool = True
    below: str = ""
    """A second, small line."""


@dataclass(frozen=True)
class Grid:
    """A table of the report: headers with units; of each row the CSS class, the part it plays and its cells."""

    headers: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Cell]]]
    caption: str


def mb(value: float) -> str:
    """Megabytes (10^6), or millions."""
    return sig(value / 1e6)


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def share(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def yes(value: bool) -> str:
    """Yes or no."""
    return "yes" if value else "no"


VARIANT: Spec = ("Variant", "", "name", str)
STATUS: Spec = ("Status", "", "status", str)
SIZE: Spec = ("Size", "MB", "size_bytes", mb)
F1: Spec = ("Validation macro F1", "share", "validation_macro_f1", share)
HELD_OUT: Spec = ("Held-out macro F1", "share", "held_out", share)
GOES_ON: Spec = ("Goes on", "", "benchmark", yes)
SUMMARY: list[Spec] = [
    ("Variant", "", "variant", str),
    ("Runtime", "", "runtime", str),
    ("Device", "", "device", str),
    ("Batch", "images", "batch_size", count),
    ("Median", "ms", "latency_median_ms", sig),
    ("p90", "ms", "latency_p90_ms", sig),
    ("Rate", "images/s", "images_per_second", sig),
    ("Top-1", "share", "top1", share),
    ("Top-5", "share", "top5", share),
    ("Macro F1", "share", "macro_f1", share),
    ("Drop", "share", "drop", share),
    ("Speed-up", "×", "speedup", sig),
    SIZE,
    ("RAM", "MB", "ram_usage_bytes", mb),
    ("VRAM", "MB", "vram_peak_bytes", mb),
    STATUS,
]
TRIALS: list[Spec] = [
    ("Trial", "", "trial", count),
    ("Adjusted", "", "adjusted", str),
    ("Score", "macro F1", "score", share),
    ("Best so far", "macro F1", "best_so_far", share),
    ("Epochs", "", "epochs", count),
    ("Time", "s", "seconds", sig),
    STATUS,
]
POLICIES: list[Spec] = [("Policy", "", "setting", str), VARIANT, F1, HELD_OUT, GOES_ON, STATUS]
PRUNED: list[Spec] = [
    VARIANT,
    ("When", "", "when", str),
    ("Parameters", "", "parameters", count),
    ("MACs", "millions an image", "macs", mb),
    SIZE,
    F1,
    HELD_OUT,
    STATUS,
]
QUANTIZED: list[Spec] = [
    VARIANT,
    ("Setting", "", "setting", str),
    ("Validation top-1", "share", "validation_top1", share),
    ("Search latency", "ms", "search_latency_ms", sig),
    SIZE,
    GOES_ON,
    STATUS,
]
FORMS: list[Spec] = [
    VARIANT,
    ("Format", "", "format", str),
    ("Precision", "", "precision", str),
    SIZE,
    ("Logit difference", "of the largest", "parity", "{:.1e}".format),
    ("Accepted", "", "tolerance", "{:.0e}".format),
    STATUS,
]
DATASET: list[Spec] = [
    ("Split", "", "split", str),
    ("Images", "", "rows", count),
    ("Classes", "", "classes", count),
    ("Size", "pixels", "image_size", count),
    ("Channels", "", "channels", count),
    ("Rarest class", "images", "class_rows_min", count),
    ("Commonest class", "images", "class_rows_max", count),
    ("Duplicates within", "images", "duplicates_within", count),
    ("Duplicates across", "images", "duplicates_across", count),
    ("Dropped", "rows", "dropped", count),
]


def _absent(row: Mapping[str, Any], key: str) -> str:
    """Why a cell of a row is empty."""
    if row.get("error"):
        return f"{row['status']}: {row['error']}"
    if "_p9" in key:
        return "fewer samples than this percentile needs"
    return "on a GPU alone" if key.startswith("vram") else "not measured in this stage"


def cell(row: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> Cell:
    """What a table shows of `row[key]`: the figure, or a dash and why there is none."""
    value, reason = row.get(key), row.get("error") or row.get("conditions") or ""
    if key == "status":
        marked = "marked" if row.get("conditions") else "stopped early" if row.get("stopped_early") else "ok"
        text = marked if value == "ok" else str(value)
        return Cell(text, text, reason, number=False)
    if value is None:
        return Cell(ABSENT, None, _absent(row, key), write is not str)
    if isinstance(value, str | bool):
        return Cell(write(value), str(value), number=False, below=reason if key in SAYS_WHY else "")
    why, below = "", ""
    if row.get(f"{key}_low") is not None and row.get(f"{key}_high") is not None:
        low, high = write(row[f"{key}_low"]), write(row[f"{key}_high"])
        why = f"95 % interval {low} to {high}"
        if key == "speedup":
            why, below = f"{row['verdict']}: {why}", f"{low}–{high}"
    return Cell(write(value), value, why, below=below)


def grid(specs: Sequence[Spec], rows: Iterable[Mapping[str, Any]], caption: str) -> Grid | None:
    """A table of rows; None of no rows."""
    made = [
        (f"{row.get('role') or ''} {row.get('status', 'ok')}".strip(), row.get("role") or "",
         [cell(row, key, write) for _, _, key, write in specs])
        for row in rows
    ]  # fmt: skip
    return Grid([(name, unit) for name, unit, _, _ in specs], made, caption) if made else None


def in_order(summary: pl.DataFrame, batch: int) -> list[Row]:
    """The three that play a part, then the compared batch size, those that are ok first, by latency."""
    parts = [*MARKS, None]
    return sorted(
        summary.to_dicts(),
        key=lambda r: (parts.index(r["role"]), r["batch_size"] != batch, r["batch_size"], r["status"] != "ok",
                       r["device"], r["latency_median_ms"] or 0.0, r["variant"]),
    )  # fmt: skip


def adjusted(text: str) -> str:
    """A trial's settings in words, from JSON."""
    found = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in json.loads(text).items()]
    return ", ".join(found) or "the study's own"
