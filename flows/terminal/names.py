"""Break names that are too long for a column of a terminal's table into lines. No part of a name is left out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BREAKS = (re.compile(r"(?<=[/ ])"), re.compile(r"(?<=[-_.])"), re.compile(r"(?<=[a-z0-9])(?=[A-Z])"))
"""Where a name may be broken: after a slash or a space, else after -, _ or a point, else before a capital letter."""


def broken(name: str, most: int) -> str:
    """Break a name into lines of at most `most` letters. A word that fits into one line is never broken."""
    lines = [""]
    for piece in _pieces(name, most, BREAKS):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _pieces(name: str, most: int, breaks: Sequence[re.Pattern[str]]) -> list[str]:
    """Cut a name into parts of at most `most` letters, between which a line may end."""
    if len(name.rstrip()) <= most:
        return [name]
    if not breaks:
        return [name[start : start + most] for start in range(0, len(name), most)]
    return [piece for part in breaks[0].split(name) for piece in _pieces(part, most, breaks[1:])]


def shared(wanted: Sequence[int], room: int) -> list[int]:
    """Divide `room` among columns, and return the width of each. What a narrow column does not need goes to the others.

    `wanted` is the width of each column's longest cell; all widths are in characters.
    """
    widths = [0] * len(wanted)
    narrow_first = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, column in enumerate(narrow_first):
        widths[column] = min(wanted[column], max(room // (len(wanted) - done), 1))
        room -= widths[column]
    return widths
