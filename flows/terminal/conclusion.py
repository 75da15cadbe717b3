"""The last lines that a run prints: cautions, the winner or the provisional best, and the path of the report."""

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
    """Return the last lines that a run prints, from its `result.json`.

    Parameters
    ----------
    folder
        Folder of the run: <out>/runs/<run>.
    width
        Greatest length of a line, in characters; None leaves each sentence on one line.
    colour
        Whether cautions are yellow.
    """
    result = json.loads((folder / "result.json").read_text())
    cautions = [_broken(f"caution: {caution}", width) for caution in result.get("cautions", [])]
    lines = [f"{YELLOW}{caution}{PLAIN}" if colour else caution for caution in cautions]
    # The result of an older run has only the reason.
    first, *others = result.get("sentences") or [result["reason"]]
    if result["winner"]:
        first = f"winner: {first}"
    lines += [_broken(sentence, width) for sentence in (first, *others)]
    if (folder / MARKED).is_file():
        note = f"benchmark_results.csv leaves times empty that were measured under bad conditions; {MARKED} has them."
        lines.append(_broken(note, width))
    return "\n".join([*lines, f"report: {folder / 'report.html'}"])


def in_one_line(result: Result) -> str:
    """Return the result of a run in one line, for a list of runs. The run's artifacts have the rest."""
    first = (result.sentences or (result.reason,))[0]
    if result.winner:
        first = f"Winner: {first}"
    if len(result.cautions) > 1:
        return f"{first} ({len(result.cautions)} cautions in the report)"
    return f"{first} (a caution in the report)" if result.cautions else first


def _broken(line: str, width: int | None) -> str:
    if width is None:
        return line
    return textwrap.fill(line, width, break_on_hyphens=False, break_long_words=False)


def held_out(datasets: pl.DataFrame, label: str) -> str:
    """Return in words which images the scores of a run are of, such as "the 120 held-out images of digits"."""
    rows = datasets.filter(datasets["split"] == "test")["rows"].to_list()
    if not rows:
        return f"the held-out images of {label}"
    return f"the {rows[0]} held-out image{'' if rows[0] == 1 else 's'} of {label}"
