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


def whole(number: int) -> str:
    """Return a whole number with a narrow space between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def points(share: float, images: int) -> str:
    """Return a drop in percentage points, with as many decimals as so many images can tell apart."""
    decimals = 1 if images < 2000 else 2
    text = f"{100 * share:.{decimals}f}"
    return text.replace("-", "\u2212") if float(text) else text.removeprefix("-")


def exact_points(share: float) -> str:
    """Return an allowed drop in percentage points, with its unit."""
    text = f"{round(100 * share, 9):g}"
    return f"{text} point" if text == "1" else f"{text} points"


def drop_words(row: Mapping[str, Any]) -> str:
    """Return a row's drop in words, in percentage points, with its interval and what would settle the question.

    `row` has the columns of the summary. `images_to_settle` may be missing, and all but `drop` in older versions.
    """
    images = row.get("drop_images")
    if images is None:
        return f"drop {points(row['drop'], 0)} points"
    low, high = points(row["drop_low"], images), points(row["drop_high"], images)
    needed = row.get("images_to_settle")
    return (
        f"drop {points(row['drop'], images)} points, 95 % between {low} and {high}, from {whole(images)} "
        f"image{'' if images == 1 else 's'}{f'; about {whole(needed)} would settle it' if needed else ''}"
    )
