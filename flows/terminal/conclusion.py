"""What a run came to, in the terminal: cautions, the winner or the provisional best, and where to read on."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from tasks.tables.csv_view import MARKED

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from tasks.records import Result

YELLOW, PLAIN = "\x1b[1;33m", "\x1b[0m"


def conclusion(folder: Path, width: int | None = None, *, colour: bool = False) -> str:
    """The last lines of a run, from its `result.json`.

    Parameters
    ----------
    folder : <out>/runs/<run>
    width : columns to break lines at; None: lines are as long as their sentences
    """
    told = json.loads((folder / "result.json").read_text())
    cautions = [_broken(f"caution: {caution}", width) for caution in told.get("cautions", [])]
    lines = [f"{YELLOW}{caution}{PLAIN}" if colour else caution for caution in cautions]
    # an older run has the reason alone
    first, *others = told.get("sentences") or [told["reason"]]
    lines += [_broken(part, width) for part in (f"{'winner: ' if told['winner'] else ''}{first}", *others)]
    if (folder / MARKED).is_file():
        told_of = (
            f"benchmark_results.csv leaves times empty that were measured under bad conditions; {MARKED} has them."
        )
        lines.append(_broken(told_of, width))
    return "\n".join([*lines, f"report: {folder / 'report.html'}"])


def in_one_line(result: Result) -> str:
    """The first sentence of what a run came to, for a list of runs; its artifacts have the rest."""
    first = (result.sentences or (result.reason,))[0]
    more = f" ({len(result.cautions)} cautions in the report)" if len(result.cautions) > 1 else ""
    more = more or (" (a caution in the report)" if result.cautions else "")
    return f"{'Winner: ' if result.winner else ''}{first}{more}"


def _broken(line: str, width: int | None) -> str:
    if width is None:
        return line
    return textwrap.fill(line, width, break_on_hyphens=False, break_long_words=False)


def held_out(datasets: pl.DataFrame, label: str) -> str:
    """What the scores of a run are of: "the 120 held-out images of digits"."""
    rows = datasets.filter(datasets["split"] == "test")["rows"].to_list()
    if not rows:
        return f"the held-out images of {label}"
    return f"the {rows[0]} held-out image{'' if rows[0] == 1 else 's'} of {label}"
