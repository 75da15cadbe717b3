"""How a figure is written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

pass

if TYPE_CHECKING:
    from collections.abc import Mapping


METRIC_NAMES = {"top1": "top-1", "macro_f1": "macro F1"}
WIDE = 100
"""Ends of an interval so many times apart (two rounds, of which one was disturbed) say nothing."""


def sig(value: float) -> str:
    """A number for people: three significant digits, never an exponent below a million."""
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def words(row: Mapping[str, Any]) -> str:
    """A row of the summary in words: variant on runtime, device, batch size."""
    return f"{row['variant']} on {row['runtime']}, {row['device']}, batch {row['batch_size']}"


def interval(low: float, high: float | None, to: str = "–") -> str:
    """The ends of a ratio's interval, or why there are none that say anything."""
    if high is None:
        return "one round"
    return f"{sig(low)}{to}{sig(high)}" if resolved(low, high) else "rounds differ too much"


def resolved(low: float, high: float | None) -> bool:
    """Whether a ratio's interval says anything."""
    return high is not None and high < WIDE * low
