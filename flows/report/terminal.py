"""The summary of a run as a table in the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING

from flows.report.columns import SUMMARY
from flows.report.folding import fold
from flows.report.grids import MARKS, cell, in_order
from flows.terminal.blocks import LEAST_NAME, blocks
from flows.terminal.names import broken

if TYPE_CHECKING:
    import polars as pl


def table_text(
    summary: pl.DataFrame, batch: int | None = None, images: str = "", *, width: int = 120, terminal: bool = False
) -> str:
    """The summary as text of at most `width` columns (fewer figures below 110); colours in a terminal alone.

    `images`: what the scores are of, in words.
    Rows come in the order of the report: winner, runner-up, reference, the compared batch size (default: the smallest).
    Skipped rows of one reason are one line below the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("variant", overflow="fold")
    for name in ("runtime", "device"):
        table.add_column(name, no_wrap=True)
    names = {
        "batch_size": "batch",
        "latency_median_ms": "median\nms",
        "latency_p90_ms": "p90\nms",
        "images_per_second": "images\n/s",
        "top1": "top-1",
        "macro_f1": "macro\nF1",
        "size_bytes": "size\nMB",
        "speedup": "speed-\nup",
    }
    figures = [key for key in names if width >= 110 or key not in ("latency_p90_ms", "images_per_second", "size_bytes")]
    longest = max((len(runtime) for runtime in summary["runtime"]), default=0)
    # what the other columns leave for names
    room = max(width - (75 if width >= 110 else 52) - longest, 12)
    for key in figures:
        table.add_column(names[key], justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    written = {key: write for _, _, key, write in SUMMARY}
    styles = {"winner": "bold green", "provisional": "bold", "runner-up": "cyan", "reference": "yellow"}
    reasons: dict[str, list[str]] = {}
    named: list[tuple[str, list[tuple[str, str]]]] = []
    rows, folded = fold(in_order(summary, batch or min(summary["batch_size"].to_list(), default=1)))
    for row in rows:
        status = cell(row, "status", str).text
        if status != "ok":
            # Conditions are many figures; the report has them.
            why = row["error"] or "measured under bad conditions (the report says which); it cannot win"
            reasons.setdefault(f"{status}: {why}", []).append(row["variant"])
        shown = [
            (names[key].replace("-\n", "").replace("\n", " "), cell(row, key, written[key]).text) for key in figures
        ]
        name = f"{MARKS.get(row['role'], '')} {row['variant']}".strip()
        named.append((name, [("on", f"{row['runtime']} on {row['device']}"), *shown, ("", status)]))
        table.add_row(
            MARKS.get(row["role"], ""),
            Text(broken(row["variant"], room)),
            row["runtime"],
            row["device"],
            *(cell(row, key, written[key]).text for key in figures),
            status,
            style=styles.get(row["role"], "" if status == "ok" else "dim"),
        )
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    narrow = width - (52 + longest) < LEAST_NAME
    console.print(Text("\n".join(blocks(named, width))) if narrow else table)
    if images:
        console.print(Text(f"top-1 and macro F1: of {images}"))
    best = (
        "? provisional best, not confirmed" if "provisional" in summary["role"].to_list() else "★ winner   2 runner-up"
    )
    console.print(
        Text(f"{best}   R reference   – not measured, or rounds differ too much   speed-up: times as fast as reference")
    )
    if "images_per_second" in figures:
        console.print(
            Text("images/s: over the whole time, slow queries included; median: half of the queries are faster")
        )
    for reason, variants in (*reasons.items(), *folded):
        who = list(dict.fromkeys(variants))
        more = f" and {len(who) - 3} more" if len(who) > 3 else ""
        console.print(Text(f"{reason} ({', '.join(who[:3])}{more})"))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def terminal_width() -> int:
    """Columns of the terminal, at most 120; 120 elsewhere."""
    return min(shutil.get_terminal_size((120, 24)).columns, 120) if sys.stdout.isatty() else 120


def print_table(summary: pl.DataFrame, batch: int | None = None, images: str = "") -> None:
    """Print `table_text`, as wide as the terminal and at most 120 columns."""
    print(table_text(summary, batch, images, width=terminal_width(), terminal=sys.stdout.isatty()), end="")
