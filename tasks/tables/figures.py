"""Write figures for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


METRIC_NAMES = {"top1": "top-1", "macro_f1": "macro F1"}
"""Name of a column -> the metric's name in texts."""
WIDE = 100
"""An interval whose upper end is this many times the lower one says nothing. It comes of two rounds of which one was
disturbed."""


def sig(value: float) -> str:
    """Return a number with three significant digits, or whole from 1,000 on. Large numbers get no exponent."""
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def words(row: Mapping[str, Any]) -> str:
    """Return where a row was measured, in words: variant on runtime, device, batch size."""
    return f"{row['variant']} on {row['runtime']}, {row['device']}, batch {row['batch_size']}"


def interval(low: float, high: float | None, to: str = "–") -> str:
    """Return the ends of a ratio's interval in words, or why they say nothing."""
    if high is None:
        return "one round"
    return f"{sig(low)}{to}{sig(high)}" if resolved(low, high) else "rounds differ too much"


def resolved(low: float, high: float | None) -> bool:
    """Return whether the interval of a ratio is narrow enough to say anything."""
    return high is not None and high < WIDE * low
