"""What candidates are ranked by (`select.by`), the limits that a winner must keep, and how both are written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Select

COLUMNS = {"latency": "latency_median_ms", "throughput": "throughput", "size": "size_bytes"}
"""Measure -> its column in the summary. Memory has a column for the CPU and another one for GPUs."""
BEST = {
    "latency": "fastest",
    "throughput": "one of the highest throughput",
    "size": "smallest",
    "memory": "one that takes the least memory",
}
"""Measure -> the best candidate in it, in words that follow "the"."""
LIMITS = {"latency_ms": "latency", "size_mb": "size", "memory_mb": "memory"}
"""Setting of `select` -> the measure that it limits."""
OVER = {"latency": "too slow", "size": "too large", "memory": "takes too much memory"}
"""Measure -> what is wrong with a candidate above its limit."""


def measure(row: Mapping[str, Any], by: str) -> float | None:
    """Return a row's figure in a measure: ms per query, images per second or bytes. None where it is not known.

    Memory is the GPU's on a GPU, else the peak of the process above what it took without the model.
    """
    if by == "memory":
        return row["ram_usage_bytes"] if row["device"] == "cpu" else row["vram_peak_bytes"]
    return row[COLUMNS[by]]  # type: ignore[no-any-return]


def cost(row: Mapping[str, Any], by: str) -> float:
    """Return what rows are ranked by: the smaller, the better. It is infinite where the row was not measured.

    Memory counts in whole megabytes: the peak of a process's memory differs by some pages from process to process,
    which makes nothing better or worse.
    """
    figure = measure(row, by)
    if figure is None:
        return math.inf
    if by == "throughput":
        return -figure
    return round(figure / 1e6) if by == "memory" else figure


def written(row: Mapping[str, Any], by: str) -> str:
    """Return a row's figure in a measure, with its unit."""
    figure = measure(row, by)
    if figure is None:
        return f"{by} not known"
    if by == "latency":
        return f"{sig(figure)} ms"
    if by == "throughput":
        return f"{sig(figure)} images/s"
    return f"{sig(figure / 1e6)} MB{' of memory' if by == 'memory' else ''}"


def limits(select: Select) -> dict[str, float]:
    """Return the limits that the study sets: name of the setting -> ms or MB."""
    return {name: limit for name in LIMITS if (limit := getattr(select, name)) is not None}


def limits_in_words(select: Select) -> list[str]:
    """Return the limits that the study sets, in words."""
    words = {"latency_ms": "{:g} ms", "size_mb": "{:g} MB", "memory_mb": "{:g} MB of memory"}
    return [words[name].format(limit) for name, limit in limits(select).items()]


def exceeded(row: Mapping[str, Any], select: Select) -> dict[str, float]:
    """Return the limits that a row does not keep: name of the setting -> how many times the limit the figure is.

    A figure that is not known does not keep its limit; it is infinitely many times as large.
    """
    over = {}
    for name, limit in limits(select).items():
        figure = measure(row, LIMITS[name])
        scale = 1.0 if name == "latency_ms" else 1e6
        times = math.inf if figure is None else figure / scale / limit
        if times > 1:
            over[name] = times
    return over


def over_limit(row: Mapping[str, Any], select: Select) -> list[str]:
    """Return in words which limits a row does not keep, such as "too large: 31.2 MB, at most 20 MB"."""
    words = []
    for name in exceeded(row, select):
        by = LIMITS[name]
        limit = f"at most {getattr(select, name):g} {'ms' if name == 'latency_ms' else 'MB'}"
        if measure(row, by) is None:
            words.append(f"its {by} was not measured, and may be {limit}")
        else:
            words.append(f"{OVER[by]}: {written(row, by).removesuffix(' of memory')}, {limit}")
    return words


def time_decides(select: Select) -> bool:
    """Return whether the winner is chosen by its latency or throughput, or must keep a limit of latency."""
    return select.by in ("latency", "throughput") or select.latency_ms is not None


def doubts(row: Mapping[str, Any], select: Select) -> str | None:
    """Return the bad conditions under which those of a row's times were measured that decide; None: nothing was bad.

    Another program on the cores makes no file larger, so bad conditions do not count where no time decides.
    """
    conditions = []
    if select.by == "latency" or select.latency_ms is not None:
        conditions.append(row["conditions"])
    if select.by == "throughput":
        # A summary of an older version of burnish has no such column.
        conditions.append(row.get("throughput_conditions"))
    return "; ".join(dict.fromkeys(text for text in conditions if text)) or None
