"""The tables of a published study with this run's figures beside them, as text for the terminal, and for the report."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.published import ABSENT, BAD
from tasks.published import compare as beside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl
    from rich.table import Table

    from tasks.published import Comparison, Published

SOURCES = ("published", "here")
"""The two sources of figures, as lines of the tables name them."""
MARKS = f"{BAD}⁰¹²³⁴⁵⁶⁷⁸⁹"
"""A note that begins with one of these is about the cells with the same mark."""
PIECES = re.compile(r"[^/ ]+[/ ]?|[/ ]")
"""Pieces of a key or header. Lines are broken between pieces alone."""
GAP = 2
"""Columns of text between two columns of a table, and for its edges."""
STAR = (
    f"{BAD} measured under bad conditions (other processes, a slowed-down machine): the report's section How it "
    "was measured says which"
)
BRACKETS = "[a–b]: 95 % interval of a score, 99 % interval of a ratio of times"


def compare(name: str, tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> Published:
    """Return the tables of the published study `name` with a run's figures. Tables that are lazy are not needed."""
    return beside(name, {key: table for key, table in tables.items() if not hasattr(table, "collect")})


def sourced(comparison: Comparison) -> bool:
    """Return whether a table has published figures: for what the study did not try, there are only this run's."""
    return any(line.published is not None for line in comparison.lines)


def lines(comparison: Comparison) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield key, source and figures of two lines per row of the study's table. Keys as in the line above are empty."""
    above: tuple[str, ...] = ()
    for line in comparison.lines:
        for source, figures in zip(SOURCES, (line.published, line.measured), strict=True):
            if figures is None and source == "published":
                # The study did not try it.
                continue
            same = next((i for i, (a, b) in enumerate(zip(above, line.key, strict=False)) if a != b), len(above))
            yield ("",) * same + line.key[same:], source, figures or (ABSENT,) * len(comparison.columns)
            above = line.key


def starred(comparison: Comparison) -> bool:
    """Return whether any figure of a table was measured under bad conditions."""
    return any(BAD in figure for _, _, figures in lines(comparison) for figure in figures)


def text(published: Published, width: int = 120) -> str:
    """Return the tables as text of at most `width` columns. A wider table comes in parts, which repeat its keys."""
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=width)
    hardware = f"published: {published.published_on}\nhere:      {published.measured_on}"
    console.print(hardware, markup=False, highlight=False)
    if any(_has_intervals(comparison) for comparison in published.comparisons):
        console.print(BRACKETS, markup=False, highlight=False)
    console.print()
    for comparison in published.comparisons:
        console.print(comparison.title, markup=False, highlight=False)
        for part in _parts(comparison, width):
            console.print(part, markup=False)
        for note in (*comparison.notes, *((STAR,) if starred(comparison) else ())):
            item = note if note[0] in MARKS else f"- {note}"
            wrapped = textwrap.wrap(item, width, subsequent_indent="  ", break_on_hyphens=False)
            console.print("\n".join(wrapped), markup=False, highlight=False)
        if comparison.notes:
            console.print()
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def _has_intervals(comparison: Comparison) -> bool:
    return any("[" in figure for _, _, figures in lines(comparison) for figure in figures)


@dataclass(frozen=True)
class _Column:
    """A column of a table of text."""

    header: str
    cells: tuple[str, ...]
    least: int
    """The smallest width in which it can be shown, when its texts are broken between pieces."""

    @property
    def whole(self) -> int:
        """The width that it has when nothing is broken."""
        return max(map(len, (self.header, *self.cells)))


def _parts(comparison: Comparison, width: int) -> Iterator[Table]:
    """Yield a comparison as a table, or as several where its figures do not fit in one.

    A figure is never broken. Keys and headers are, behind a slash or at a space, where there is no room.
    """
    keys, columns = _columns(comparison)
    for part in _fitting(keys, columns, width):
        room = width - GAP * (len(keys) + len(part)) - sum(column.least for column in (*keys, *part))
        key_widths, room = _widened([key.least for key in keys], [key.whole for key in keys], room)
        widths, _ = _widened([column.least for column in part], [column.whole for column in part], room)
        yield _table(keys, part, [*key_widths, *widths])


def _columns(comparison: Comparison) -> tuple[list[_Column], list[_Column]]:
    """Return the columns that name a row, and those of its figures."""
    rows = list(lines(comparison))
    named = [(name, tuple(key[i] for key, _, _ in rows)) for i, name in enumerate(comparison.keys)]
    if sourced(comparison):
        named.append(("", tuple(source for _, source, _ in rows)))
    keys = []
    for name, cells in named:
        pieces = [piece for text in (name, *cells) for piece in PIECES.findall(f"{text} ")]
        keys.append(_Column(name, cells, least=max(map(len, pieces))))
    columns = []
    for i, name in enumerate(comparison.columns):
        cells = tuple(figures[i] for _, _, figures in rows)
        columns.append(_Column(name, cells, least=max(map(len, (*name.split(), *cells)))))
    return keys, columns


def _fitting(keys: list[_Column], columns: list[_Column], width: int) -> list[list[_Column]]:
    """Return the columns of figures in groups, each of which fits beside the keys."""
    groups: list[list[_Column]] = [[]]
    for column in columns:
        taken = sum(key.least + GAP for key in keys) + sum(other.least + GAP for other in groups[-1])
        if groups[-1] and taken + column.least > width:
            groups.append([])
        groups[-1].append(column)
    return groups


def _table(keys: list[_Column], part: list[_Column], widths: list[int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns = [*keys, *part]
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        if i < len(keys):
            table.add_column(_broken(column.header, width), overflow="fold")
        else:
            table.add_column(_broken(column.header, width), justify="right", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(_broken(cell, width) for cell, width in zip(row, widths, strict=True)))
    return table


def _widened(least: list[int], wanted: list[int], room: int) -> tuple[list[int], int]:
    """Return widths after each in turn has taken of the room what it wants, and the room that remains."""
    widths = []
    for width, most in zip(least, wanted, strict=True):
        more = max(0, min(most - width, room))
        widths.append(width + more)
        room -= more
    return widths, room


def _broken(text: str, most: int) -> str:
    """Return a text in lines of at most `most` letters, broken at a space or behind a slash where there is one."""
    broken = [""]
    for piece in PIECES.findall(text):
        if len((broken[-1] + piece).rstrip()) > most and broken[-1]:
            broken.append("")
        broken[-1] += piece
    return "\n".join(line.rstrip() for line in broken)
