"""A published study's own tables with this run's figures beside them: in the terminal, and rows for the report."""

from __future__ import annotations

import io
import re
import textwrap
from typing import TYPE_CHECKING

from tasks.published import ABSENT, BAD
from tasks.published import compare as beside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl
    from rich.table import Table

    from tasks.published import Comparison, Published

SOURCES = ("published", "here")
MARKS = f"{BAD}⁰¹²³⁴⁵⁶⁷⁸⁹"
"""What a note begins with that is of cells with the same mark."""
PIECES = re.compile(r"[^/ ]+[/ ]?|[/ ]")
"""What a key or header is not broken within."""
GAP = 2
"""Between two columns of a table, and for its edges."""
STAR = (
    f"{BAD} measured under bad conditions (other processes, a slowed-down machine): the report's section How it "
    "was measured "
    "says which"
)

BRACKETS = "[a–b]: 95 % interval of a score, 99 % interval of a ratio of times"


def compare(name: str, tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> Published:
    """The published study `name` beside a run's tables; those too large to be read whole (lazy) are not needed."""
    return beside(name, {key: table for key, table in tables.items() if not hasattr(table, "collect")})


def sourced(comparison: Comparison) -> bool:
    """Whether both sources have a part in a table: of what the study left undone there is one source alone."""
    return any(line.published is not None for line in comparison.lines)


def lines(comparison: Comparison) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Key (what repeats the line above is empty), source and figures: two lines a row of the study's table."""
    above: tuple[str, ...] = ()
    for line in comparison.lines:
        for source, figures in zip(SOURCES, (line.published, line.measured), strict=True):
            if figures is None and source == "published":
                # what the study left undone
                continue
            same = next((i for i, (a, b) in enumerate(zip(above, line.key, strict=False)) if a != b), len(above))
            yield ("",) * same + line.key[same:], source, figures or (ABSENT,) * len(comparison.columns)
            above = line.key


def starred(comparison: Comparison) -> bool:
    """Whether a figure was measured under bad conditions."""
    return any(BAD in figure for _, _, figures in lines(comparison) for figure in figures)


def text(published: Published, width: int = 120) -> str:
    """The tables as text of at most `width` columns; one that is wider is told in parts, which repeat its keys."""
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=width)
    hardware = f"published: {published.published_on}\nhere:      {published.measured_on}"
    console.print(hardware, markup=False, highlight=False)
    if any("[" in figure for one in published.comparisons for *_, figures in lines(one) for figure in figures):
        console.print(BRACKETS, markup=False, highlight=False)
    console.print()
    for comparison in published.comparisons:
        console.print(comparison.title, markup=False, highlight=False)
        for part in _parts(comparison, width):
            console.print(part, markup=False)
        for note in (*comparison.notes, *((STAR,) if starred(comparison) else ())):
            marked = note[0] in MARKS
            told = textwrap.wrap(note if marked else f"- {note}", width, subsequent_indent="  ", break_on_hyphens=False)
            console.print("\n".join(told), markup=False, highlight=False)
        if comparison.notes:
            console.print()
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def _parts(comparison: Comparison, width: int) -> Iterator[Table]:
    """A comparison as a table, or as several where its figures do not fit in one: a figure is never broken; keys and
    headers are, behind a slash or at a space, where there is no room."""
    from rich import box
    from rich.table import Table

    told, both = list(lines(comparison)), sourced(comparison)
    keys = [[name, *(key[i] for key, _, _ in told)] for i, name in enumerate(comparison.keys)]
    if both:
        keys.append(["", *(source for _, source, _ in told)])
    columns = [[name, *(figures[i] for _, _, figures in told)] for i, name in enumerate(comparison.columns)]
    least = [max(len(piece) for cell in column for piece in PIECES.findall(f"{cell} ")) for column in keys]
    widths = [max(map(len, (*name.split(), *cells))) for name, *cells in columns]
    blocks: list[list[int]] = [[]]
    for i, needed in enumerate(widths):
        if blocks[-1] and sum(least) + sum(widths[j] + GAP for j in blocks[-1]) + needed + GAP * len(keys) > width:
            blocks.append([])
        blocks[-1].append(i)
    for block in blocks:
        free = width - sum(least) - sum(widths[i] for i in block) - GAP * (len(keys) + len(block))
        room, free = _widened(least, [max(map(len, column)) for column in keys], free)
        wide, _ = _widened([widths[i] for i in block], [max(widths[i], len(columns[i][0])) for i in block], free)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for (name, *_), most in zip(keys, room, strict=True):
            table.add_column(_broken(name, most), overflow="fold")
        for i, most in zip(block, wide, strict=True):
            table.add_column(_broken(columns[i][0], most), justify="right", no_wrap=True)
        for row in zip(*(column[1:] for column in keys), *(columns[i][1:] for i in block), strict=True):
            table.add_row(*(_broken(cell, most) for cell, most in zip(row, (*room, *wide), strict=True)))
        yield table


def _widened(least: list[int], wanted: list[int], free: int) -> tuple[list[int], int]:
    """Widths with what is free given to each in turn up to what it wants, and what is left."""
    widths = list(least)
    for i, most in enumerate(wanted):
        more = max(0, min(most - widths[i], free))
        widths[i], free = widths[i] + more, free - more
    return widths, free


def _broken(words: str, most: int) -> str:
    """Lines of at most `most` letters, broken at a space or behind a slash; longer only where there is neither."""
    told = [""]
    for piece in PIECES.findall(words):
        if len((told[-1] + piece).rstrip()) > most and told[-1]:
            told.append("")
        told[-1] += piece
    return "\n".join(line.rstrip() for line in told)
