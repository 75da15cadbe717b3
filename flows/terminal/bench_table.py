"""The text that `burnish bench` prints: one table per experiment, the fastest first, as wide as the terminal."""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from flows.terminal.blocks import LEAST_NAME, blocks
from flows.terminal.names import broken
from tasks.machine.causes import without_class
from tasks.tables.figures import interval, sig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import polars as pl
    from rich.table import Table
    from rich.text import Text

Row = dict[str, Any]
DEFAULT_WIDTH = 100
"""Width of the text, in characters, where the output is no terminal."""
WIDEST = 140
"""Greatest width of the text, in characters."""
SHORTEST = 18
"""Figures are left out until this many characters are free for models' names. Longer names take several lines."""
FOLDED = 2
"""More notes of one kind than this are joined to a single line."""
STAR = (
    "*: measured under the bad conditions named above, or compared with a reference that was; such figures and "
    "verdicts are doubtful: measure again while nothing else runs."
)
RATE = "images/s: over the whole time, slow queries included; median: half of the queries are faster."
UNCLEAR = "unclear"
"""Short word for the verdict "indistinguishable". The line below the table says what it means."""


def _figure(key: str) -> Callable[[Row], str]:
    """Return a function that writes one figure of a row, or a dash where it was not measured."""

    def written(row: Row) -> str:
        value = row.get(key)
        if value is None:
            return "–"
        return str(value) if isinstance(value, int) else sig(value)

    return written


def _between(stem: str, unit: str) -> Callable[[Row], str]:
    """Return a function that writes both ends of an interval of a row, or a dash where it was not measured."""

    def written(row: Row) -> str:
        low = row.get(f"{stem}_low{unit}")
        high = row.get(f"{stem}_high{unit}")
        return "–" if low is None or high is None else f"{sig(low)} – {sig(high)}"

    return written


COLUMNS: dict[str, dict[str, Callable[[Row], str]]] = {
    "latency": {
        "median ms": _figure("latency_median_ms"),
        "99 % interval": _between("latency_median", "_ms"),
        "images/s": _figure("images_per_second"),
        "p99 ms": _figure("latency_p99_ms"),
        "p90 ms": _figure("latency_p90_ms"),
        "mJ/image": _figure("energy_per_image_mj"),
        "first query s": _figure("first_query_seconds"),
        "± processes": _figure("process_std_ms"),
    },
    "throughput": {
        "images/s": _figure("images_per_second"),
        "99 % interval": _between("images_per_second", ""),
        "in flight": _figure("slots"),
        "mJ/image": _figure("energy_per_image_mj"),
    },
}
"""Figures of each experiment, the most important first. As many are shown as fit."""


def width_here() -> int:
    """Return the width for the text, in characters: the terminal's, or that of the environment variable COLUMNS."""
    return min(shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns, WIDEST)


def text(measured: dict[str, pl.DataFrame], compared: list[Row], reference: str, width: int) -> str:
    """Return the tables, and below them what was wrong with some rows.

    Parameters
    ----------
    measured
        The tables `benchmarks` and `throughputs`.
    compared
        Rows that compare a candidate with the reference, as the table `comparisons` has them.
    reference
        The candidate that all others are compared with, as `label` names it.
    width
        Characters per line; only words that are longer, such as paths in error messages, take more.
    """
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=sys.stdout.isatty(), highlight=False)
    notes: list[tuple[str, str]] = []
    for experiment, name in (("latency", "benchmarks"), ("throughput", "throughputs")):
        rows = measured[name].to_dicts()
        if not rows:
            continue
        if target.tell():
            console.print()
        verdicts = {(row["candidate"], row["batch_size"]): row for row in compared if row["experiment"] == experiment}
        console.print(_title(experiment, rows), style="bold")
        console.print(_table(experiment, rows, verdicts, reference=reference, width=width))
        for row in rows:
            place = f"{label(row)}, batch {row['batch_size']}, {experiment}"
            if row["error"]:
                notes.append((place, without_class(row["error"])))
            elif row["conditions"]:
                notes.append((place, f"* {row['conditions']}"))
    below = folded(notes)
    if compared:
        explanation = (
            f"× reference: how many times as fast as {reference}, by paired rounds, with a 99 % interval; {UNCLEAR} "
            "where that holds 1. Everything measured is in the tables below."
        )
        below = [explanation, *below]
    if "images/s" in target.getvalue():
        below.insert(0, RATE)
    if any(line.startswith("* ") for line in below):
        below.append(STAR)
    lines = [line.rstrip() for line in target.getvalue().splitlines()]
    return "\n".join([*lines, "", *(wrapped(line, width) for line in below)]) + "\n"


def wrapped(line: str, width: int) -> str:
    """Break a long line into several, but never within a path, because people copy paths."""
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def label(row: Row) -> str:
    """Return the name of a row's candidate: its variant and its runtime."""
    return f"{row['variant']} · {row['runtime']}"


def _title(experiment: str, rows: list[Row]) -> str:
    """Return the title of a table: the experiment, and what all of its rows have in common."""
    parts = [experiment.capitalize(), f"on {rows[0]['device']}"]
    threads = {row["threads"] for row in rows} - {None}
    if len(threads) == 1:
        count = threads.pop()
        parts.append(f"{count} thread{'s' if count > 1 else ''}")
    if len({row["runtime"] for row in rows}) == 1:
        parts.append(f"in {rows[0]['runtime']}")
    if len({row["batch_size"] for row in rows}) == 1:
        parts.append(f"batch {rows[0]['batch_size']}")
    return ", ".join(parts)


def _sorted(experiment: str, rows: list[Row]) -> list[Row]:
    """Return rows by batch size, the fastest of each first and those that failed last."""

    def position(row: Row) -> tuple[int, bool, float]:
        figure = row["latency_median_ms" if experiment == "latency" else "images_per_second"]
        if figure is None:
            return row["batch_size"], True, 0.0
        return row["batch_size"], False, figure if experiment == "latency" else -figure

    return sorted(rows, key=position)


def _table(
    experiment: str, rows: list[Row], verdicts: dict[tuple[str, int], Row], *, reference: str, width: int
) -> Table | Text:
    """Return the rows as a table with as many figures as fit, or as blocks where not even the fewest fit."""
    from rich.text import Text

    rows = _sorted(experiment, rows)
    names = [row["variant"] for row in rows]
    columns = _columns(experiment, rows, _comparison(rows, verdicts, reference), width)
    room = width - sum(map(_column_width, columns.items()))
    if room < min(LEAST_NAME, max(map(len, names))) + 2:
        named = [
            (name, [(title, cells[number]) for title, cells in columns.items()]) for number, name in enumerate(names)
        ]
        return Text("\n".join(blocks(named, width)))
    return _rich_table(rows, columns, max(room - 2, 3))


def _columns(experiment: str, rows: list[Row], comparison: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """Return the columns beside the models' names, by their titles: as many figures as fit, and the comparison."""
    columns: dict[str, list[str]] = {}
    if len({row["runtime"] for row in rows}) > 1:
        columns["runtime"] = [row["runtime"] for row in rows]
    if len({row["batch_size"] for row in rows}) > 1:
        columns["batch"] = [str(row["batch_size"]) for row in rows]
    figures = {name: [figure(row) for row in rows] for name, figure in COLUMNS[experiment].items()}
    first, *optional = [name for name, cells in figures.items() if set(cells) != {"–"}] or list(figures)[:1]
    columns[first] = figures[first]
    room = width - min(SHORTEST, max(len(row["variant"]) for row in rows)) - 2
    for name in optional:
        if sum(map(_column_width, (columns | {name: figures[name]} | comparison).items())) <= room:
            columns[name] = figures[name]
    return columns | comparison


def _rich_table(rows: list[Row], columns: dict[str, list[str]], name_width: int) -> Table:
    """Return a table with an empty line between two batch sizes. Longer names than `name_width` take several lines."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="left" if name in ("runtime", "× reference", "") else "right")
    for number, row in enumerate(rows):
        if number and row["batch_size"] != rows[number - 1]["batch_size"]:
            table.add_row()
        table.add_row(Text(broken(row["variant"], name_width)), *(cells[number] for cells in columns.values()))
    return table


def _comparison(rows: list[Row], verdicts: dict[tuple[str, int], Row], reference: str) -> dict[str, list[str]]:
    """Return the columns that compare rows with the reference: the ratio, and a word. Empty columns are left out."""
    ratios = []
    words = []
    for row in rows:
        comparison = verdicts.get((label(row), row["batch_size"]))
        ratio = ""
        word = ""
        is_doubtful = bool(row["conditions"])
        if comparison is not None:
            ratio = f"{sig(comparison['ratio'])} ({_ends(comparison)})"
            is_doubtful = is_doubtful or bool(comparison["conditions"])
            word = UNCLEAR if comparison["verdict"] == "indistinguishable" else comparison["verdict"]
        elif row["status"] != "ok":
            word = row["status"]
        elif label(row) == reference and verdicts:
            word = "reference"
        ratios.append(ratio)
        words.append(word + ("*" if is_doubtful else ""))
    columns = {"× reference": ratios, "": words}
    return {title: cells for title, cells in columns.items() if any(cells)}


def _ends(comparison: Row) -> str:
    """Return the interval of a comparison, or a dash where rounds differ too much for a useful one."""
    ends = interval(comparison["low"], comparison["high"])
    return ends if ends[0].isdigit() else "–"


def _column_width(column: tuple[str, list[str]]) -> int:
    """Return the width of a column, in characters, with the gap beside it."""
    title, cells = column
    return max(map(len, (title, *cells))) + 2


def folded(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line per kind of note. Notes that differ only in percentages become one line with their range.

    A note is the row that it is about, in words, and what is to be said of it.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for row, text in notes:
        groups.setdefault(re.sub(r"\d+(?=%)", "#", text), []).append((row, text))
    return [line for template, group in groups.items() for line in _lines(template, group)]


def _lines(template: str, group: list[tuple[str, str]]) -> list[str]:
    """Return the lines for notes of one kind; `template` is their common text, with # in place of each percentage."""
    mark = "* " if template.startswith("* ") else ""
    same = len({text for _, text in group}) == 1
    if len(group) == 1 or (len(group) <= FOLDED and not same):
        return [f"{mark}{row}: {text.removeprefix(mark)}" for row, text in group]
    percentages = ([int(figure) for figure in re.findall(r"\d+(?=%)", text)] for _, text in group)
    # One entry per # of the template, with the percentages of all notes.
    columns = zip(*percentages, strict=True)
    ranges = iter([f"{min(column)}" if len(set(column)) == 1 else f"{min(column)}–{max(column)}" for column in columns])
    body = re.sub("#(?=%)", lambda _: next(ranges), template.removeprefix(mark))
    return [f"{mark}{group[0][0]}, and {len(group) - 1} more: {body}" if same else f"{mark}{len(group)} rows: {body}"]
