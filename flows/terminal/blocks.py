"""Write the rows of a table as blocks of text, for terminals that are too narrow for columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from flows.terminal.names import broken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_NAME = 12
"""A table is readable only if this many characters are free for names beside the figures."""


def blocks(rows: Iterable[tuple[str, Sequence[tuple[str, str]]]], width: int) -> list[str]:
    """Return lines of at most `width` characters: the name of each row, and below it its figures with their titles."""
    lines: list[str] = []
    for name, figures in rows:
        lines += broken(name, max(width, 1)).splitlines()
        described = ", ".join(" ".join(filter(None, figure)) for figure in figures if figure[1])
        indent = "  " if width > LEAST_NAME else ""
        lines += textwrap.wrap(described, max(width, 1), initial_indent=indent, subsequent_indent=indent)
    return lines
