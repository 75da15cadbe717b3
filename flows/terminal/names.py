"""Names in the tables of a terminal: what does not fit goes on in the next line, and nothing of a name is cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BREAKS = (re.compile(r"(?<=[/ ])"), re.compile(r"(?<=[-_.])"), re.compile(r"(?<=[a-z0-9])(?=[A-Z])"))
"""Where a name may be broken: behind a slash or a space, else behind -, _ or a point, else before a capital letter."""


def broken(name: str, most: int) -> str:
    """Lines of at most `most` letters; a word is broken within only where it is longer than a line by itself."""
    lines = [""]
    for piece in _pieces(name, most, BREAKS):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _pieces(name: str, most: int, breaks: Sequence[re.Pattern[str]]) -> list[str]:
    """Parts of a name between which a line may end, each of at most `most` letters."""
    if len(name.rstrip()) <= most:
        return [name]
    if not breaks:
        return [name[start : start + most] for start in range(0, len(name), most)]
    return [piece for part in breaks[0].split(name) for piece in _pieces(part, most, breaks[1:])]


def shared(wanted: Sequence[int], room: int) -> list[int]:
    """Widths of columns that want so much and have `room` together: what a narrow one leaves goes to the others."""
    widths = [0] * len(wanted)
    for done, column in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        widths[column] = min(wanted[column], max(room // (len(wanted) - done), 1))
        room -= widths[column]
    return widths
