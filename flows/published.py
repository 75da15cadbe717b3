"""A published study's own tables with this run's figures beside them: in the terminal, and rows for the report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from tasks.published import ABSENT, BAD
from tasks.published import compare as beside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

    from tasks.published import Comparison, Published

SOURCES = ("published", "here")
STAR = (
    f"{BAD} measured under bad conditions (other processes, a slowed-down machine): the section on measuring says which"
)


def compare(name: str, tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> Published:
    """The published study `name` beside a run's tables; those too large to be read whole (lazy) are not needed."""
    return beside(name, {key: table for key, table in tables.items() if not hasattr(table, "collect")})


def lines(comparison: Comparison) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Key (empty below its first line), source and figures: two lines a row of the study's table."""
    for line in comparison.lines:
        key = line.key
        for source, figures in zip(SOURCES, (line.published, line.here), strict=True):
            if figures is None and source == "published":
                continue  # what the study left undone
            yield key, source, figures or (ABSENT,) * len(comparison.columns)
            key = ("",) * len(line.key)


def starred(comparison: Comparison) -> bool:
    """Whether a figure was measured under bad conditions."""
    return any(
        figure.endswith(BAD) or f"{BAD} ±" in figure for _, _, figures in lines(comparison) for figure in figures
    )


def text(published: Published, width: int = 120) -> str:
    """The tables as text of at most `width` columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    target = io.StringIO()
    console = Console(file=target, width=width)
    for comparison in published.comparisons:
        table = Table(title=comparison.title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1),
                      pad_edge=False)  # fmt: skip
        for name in (*comparison.keys, ""):
            table.add_column(name, overflow="fold")
        for name in comparison.columns:
            table.add_column(name, justify="right")
        for key, source, figures in lines(comparison):
            table.add_row(*key, source, *figures)
        console.print(table, markup=False)
        for note in comparison.notes:
            console.print(note, markup=False, highlight=False)
        console.print()
    if any(starred(comparison) for comparison in published.comparisons):
        console.print(STAR, markup=False, highlight=False)
    console.print(f"published: {published.there}\nhere:      {published.here}", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"
