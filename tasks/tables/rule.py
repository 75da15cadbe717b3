"""The study's rule: which row is the reference, which rows may win, and which would have won when measured well."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records import Study

Row = dict[str, Any]
"""A row of the summary: name of a column -> value."""
KEY = ("variant", "runtime", "device")
"""Columns that together name a candidate."""
TRAINING = ("train", "tune", "augment")
"""Stages whose weights are neither pruned nor quantized: a reference comes from one of them."""
GIVEN = "adopt"
"""The stage whose variants were given by the user, as ONNX files."""
EPS = 1e-9
"""Scores are shares of images. Two of them that differ by no more than this rounding error are equal."""
ENOUGH = {"likely": ("likely", "shown"), "shown": ("shown",)}
"""Value of `select.confidence` -> the values of the column `within` of rows that are accurate enough."""


def accurate(row: Row, study: Study) -> bool:
    """Return whether the row's drop is known and within the allowed one, as surely as the study wants it."""
    if row["drop"] is None or row["drop"] > study.select.max_drop + EPS:
        return False
    return study.select.confidence == "point" or row["within"] in ENOUGH[study.select.confidence]


def may_win(row: Row, study: Study) -> bool:
    """Return whether the row was measured, under good conditions, and is accurate enough."""
    measured = row["status"] == "ok" and row["latency_median_ms"] is not None
    return measured and row["conditions"] is None and accurate(row, study)


def passed_over(rows: Sequence[Row], study: Study, batch_size: int, below_ms: float = math.inf) -> list[Row]:
    """Return the marked rows of a batch size that are accurate enough and whose median latency is below a limit.

    They would have won, had they been measured under good conditions.
    """
    return [
        row
        for row in rows
        if row["batch_size"] == batch_size
        and row["conditions"] is not None
        and row["status"] == "ok"
        and accurate(row, study)
        and row["latency_median_ms"] is not None
        and row["latency_median_ms"] < below_ms
    ]


def find_reference(rows: Sequence[Row], study: Study, batch_size: int) -> Row | None:
    """Return the most accurate unpruned fp32 row in PyTorch eager, None where none was measured.

    A model that was given as an ONNX file takes part as it is, in ONNX Runtime.

    It is taken from the first device of the study that has such a row; `auto` prefers a GPU.
    """
    metric = study.select.metric
    rivals = [row for row in _in_question(rows, batch_size) if row["status"] == "ok" and row[metric] is not None]
    devices = {row["device"] for row in rivals}
    for wanted in study.benchmark.devices:
        device = min(devices, key=lambda name: (name == "cpu", name), default=None) if wanted == "auto" else wanted
        on_device = [row for row in rivals if row["device"] == device]
        if on_device:
            return min(on_device, key=lambda row: (-row[metric], row["latency_median_ms"], row["variant"]))
    return None


def lost_references(rows: Sequence[Row], study: Study, batch_size: int) -> list[Row]:
    """Return the rows that could have been the reference but were not measured, because a worker was killed, say."""
    return [
        row
        for row in _in_question(rows, batch_size)
        if row["status"] != "skipped" and (row["status"] != "ok" or row[study.select.metric] is None)
    ]


def _in_question(rows: Sequence[Row], batch_size: int) -> list[Row]:
    """Return the rows at a batch size of models as they were trained or given, measured or not."""
    return [row for row in rows if row["batch_size"] == batch_size and as_trained(row)]


def as_trained(row: Row) -> bool:
    """Return whether a row is of an unpruned fp32 model in PyTorch eager, or of a given one in ONNX Runtime."""
    if row["stage"] == GIVEN:
        return bool(row["runtime"] == "onnxruntime")
    return row["runtime"] == "eager" and row["precision"] == "fp32" and row["stage"] in TRAINING


def on_front(row: Row, rows: Sequence[Row], metric: str, *, besides: Sequence[str] = ("size", "memory")) -> bool:
    """Return whether a row is on the Pareto front of its device and batch size.

    It is where no unmarked row is at least as good in everything, and better in one thing: latency, accuracy and
    `besides`. Size and memory count where every row that is compared has them.
    """
    rivals = [
        other
        for other in rows
        if (other["device"], other["batch_size"]) == (row["device"], row["batch_size"]) and _trusted(other, metric)
    ]
    if not _trusted(row, metric):
        return False
    figures = {name: [_beside(other, name) for other in rivals] for name in besides}
    known = [name for name, values in figures.items() if None not in values]

    def point(other: Row) -> tuple[float, ...]:
        return other["latency_median_ms"], -other[metric], *(_beside(other, name) or 0.0 for name in known)

    own = point(row)
    others = [point(other) for other in rivals]
    return not any(
        other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True)) for other in others
    )


def _trusted(row: Row, metric: str) -> bool:
    """Return whether a row's latency and accuracy were measured, under good conditions."""
    return row["status"] == "ok" and row["conditions"] is None and row[metric] is not None


def _beside(row: Row, name: str) -> float | None:
    """Return a row's size in bytes, or its memory in whole megabytes: of a GPU, or else of the process.

    The peak of a process's memory differs by some pages from process to process, which makes nothing better or worse.
    """
    if name == "size":
        return row["size_bytes"]  # type: ignore[no-any-return]
    bytes_held = row["ram_usage_bytes"] if row["device"] == "cpu" else row["vram_peak_bytes"]
    return None if bytes_held is None else round(bytes_held / 1e6)
