"""The summary of a run as a table for the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING, Any

from flows.report.columns import SUMMARY
from flows.report.folding import fold
from flows.report.grids import MARKS, cell, in_order
from flows.terminal.blocks import LEAST_NAME, blocks
from flows.terminal.names import broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl
    from rich.table import Table


NAMES = {
    "batch_size": "batch",
    "latency_median_ms": "median\nms",
    "latency_p90_ms": "p90\nms",
    "images_per_second": "images\n/s",
    "top1": "top-1",
    "macro_f1": "macro\nF1",
    "size_bytes": "size\nMB",
    "speedup": "speed-\nup",
}
"""Column of figures -> its header."""
FULL_WIDTH = 110
"""Terminals with fewer columns get the table without the figures of `LEFT_OUT`."""
LEFT_OUT = ("latency_p90_ms", "images_per_second", "size_bytes")
STYLES = {"winner": "bold green", "provisional": "bold", "runner-up": "cyan", "reference": "yellow"}
WRITE = {key: write for _, _, key, write in SUMMARY}
"""Column -> what writes its value."""


def table_text(
    summary: pl.DataFrame, batch: int | None = None, images: str = "", *, width: int = 120, terminal: bool = False
) -> str:
    """Return the summary as text of at most `width` columns.

    Rows come in the order of the report. Skipped rows of one reason are one line below the table. Where names would
    have too little room in a table, each row is a block of lines.

    Parameters
    ----------
    batch
        The compared batch size, whose rows come first. None: the smallest.
    images
        The images that scores were measured on, in words.
    terminal
        Whether the text is for a terminal, and has colours.
    """
    from rich.console import Console
    from rich.text import Text

    figures = [key for key in NAMES if width >= FULL_WIDTH or key not in LEFT_OUT]
    rows, folded = fold(in_order(summary, batch or min(summary["batch_size"].to_list(), default=1)))
    longest = max((len(runtime) for runtime in summary["runtime"]), default=0)
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    if width - (52 + longest) < LEAST_NAME:
        console.print(Text("\n".join(blocks([_block(row, figures) for row in rows], width))))
    else:
        # The other columns take this much: the figures with their headers, and the longest name of a runtime.
        others = (75 if width >= FULL_WIDTH else 52) + longest
        console.print(_table(rows, figures, room=max(width - others, 12)))
    for line in _legend(summary, figures, images):
        console.print(Text(line))
    for reason, variants in (*_reasons(rows).items(), *folded):
        names = list(dict.fromkeys(variants))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.print(Text(f"{reason} ({', '.join(names[:3])}{more})"))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def _table(rows: Sequence[Mapping[str, Any]], figures: Sequence[str], room: int) -> Table:
    """Return the rows as a table. `room` is the width of the column of names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("variant", overflow="fold")
    for name in ("runtime", "device"):
        table.add_column(name, no_wrap=True)
    for key in figures:
        table.add_column(NAMES[key], justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for row in rows:
        status = cell(row, "status", str).text
        table.add_row(
            MARKS.get(row["role"], ""),
            Text(broken(row["variant"], room)),
            row["runtime"],
            row["device"],
            *(cell(row, key, WRITE[key]).text for key in figures),
            status,
            style=STYLES.get(row["role"], "" if status == "ok" else "dim"),
        )
    return table


def _block(row: Mapping[str, Any], figures: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return a row's name, and header and text of each of its cells."""
    name = f"{MARKS.get(row['role'], '')} {row['variant']}".strip()
    cells = [("on", f"{row['runtime']} on {row['device']}")]
    for key in figures:
        header = NAMES[key].replace("-\n", "").replace("\n", " ")
        cells.append((header, cell(row, key, WRITE[key]).text))
    return name, [*cells, ("", cell(row, "status", str).text)]


def _legend(summary: pl.DataFrame, figures: Sequence[str], images: str) -> Iterator[str]:
    """Yield the lines that explain the table."""
    if images:
        yield f"top-1 and macro F1: of {images}"
    provisional = "provisional" in summary["role"].to_list()
    best = "? provisional best, not confirmed" if provisional else "★ winner   2 runner-up"
    yield f"{best}   R reference   – not measured, or rounds differ too much   speed-up: times as fast as reference"
    if "images_per_second" in figures:
        yield "images/s: over the whole time, slow queries included; median: half of the queries are faster"


def _reasons(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return status and reason of the rows that are not ok -> the candidates concerned, each with its runtime."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        status = cell(row, "status", str).text
        if status != "ok":
            # Conditions are many figures; the report has them.
            why = row["error"] or "measured under bad conditions (the report says which), and cannot win"
            reasons.setdefault(f"{status}: {why}", []).append(f"{row['variant']} in {row['runtime']}")
    return reasons


def terminal_width() -> int:
    """Return the number of columns of the terminal, at most 120. Without a terminal it is 120."""
    return min(shutil.get_terminal_size((120, 24)).columns, 120) if sys.stdout.isatty() else 120


def print_table(summary: pl.DataFrame, batch: int | None = None, images: str = "") -> None:
    """Print `table_text`, as wide as the terminal and at most 120 columns."""
    print(table_text(summary, batch, images, width=terminal_width(), terminal=sys.stdout.isatty()), end="")
