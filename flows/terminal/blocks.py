"""Rows of a table one below another, for terminals that are too narrow for columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from flows.terminal.names import broken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_NAME = 12
"""Columns that a name must have left beside the figures for a table to be readable."""


def blocks(rows: Iterable[tuple[str, Sequence[tuple[str, str]]]], width: int) -> list[str]:
    """Lines of at most `width` columns: each row's name, and below it its figures with what they are."""
    lines: list[str] = []
    for name, figures in rows:
        lines += broken(name, max(width, 1)).splitlines()
        told = ", ".join(" ".join(filter(None, figure)) for figure in figures if figure[1])
        indent = "  " if width > LEAST_NAME else ""
        lines += textwrap.wrap(told, max(width, 1), initial_indent=indent, subsequent_indent=indent)
    return lines
