"""What `burnish bench` prints: a table per experiment, the fastest first, that fits the width it is read at."""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from flows.terminal.blocks import LEAST_NAME, blocks
from flows.terminal.names import broken
from tasks.tables.figures import interval, sig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import polars as pl
    from rich.table import Table
    from rich.text import Text

Row = dict[str, Any]
NARROW, WIDEST = 100, 140
"""Columns where no terminal tells how many it has, and at most."""
SHORTEST = 18
"""Columns that models' names keep before further figures are left out; longer names take several lines."""
FOLDED = 2
"""From more notes of one kind than this a single line is made."""
UNCLEAR = "unclear"
"""A verdict of "indistinguishable", in few letters; the line below the table says what it means."""


def _figure(key: str) -> Callable[[Row], str]:
    return lambda row: "–" if row.get(key) is None else str(row[key]) if isinstance(row[key], int) else sig(row[key])


def _between(stem: str, unit: str) -> Callable[[Row], str]:
    def ends(row: Row) -> str:
        low, high = row.get(f"{stem}_low{unit}"), row.get(f"{stem}_high{unit}")
        return "–" if low is None or high is None else f"{sig(low)} – {sig(high)}"

    return ends


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
"""Figures of each experiment, the most important first: as many are shown as fit."""
SPEED = {"latency": lambda row: row["latency_median_ms"], "throughput": lambda row: -row["images_per_second"]}


def width_here() -> int:
    """Columns of the terminal, or of what COLUMNS says where the output is no terminal."""
    return min(shutil.get_terminal_size((NARROW, 24)).columns, WIDEST)


def text(measured: dict[str, pl.DataFrame], compared: list[Row], reference: str, width: int) -> str:
    """The tables and what was strange about rows, in lines of at most `width` columns but for long error messages."""
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
        verdicts = {(f["candidate"], f["batch_size"]): f for f in compared if f["experiment"] == experiment}
        console.print(_title(experiment, rows), style="bold")
        console.print(_table(experiment, rows, verdicts, reference, width))
        for row in rows:
            if why := row["error"] or row["conditions"]:
                mark = "" if row["error"] else "* "
                notes.append((f"{label(row)}, batch {row['batch_size']}, {experiment}", f"{mark}{why}"))
    said = (
        [
            f"× reference: how many times as fast as {reference}, by paired rounds, with a 99 % interval; "
            f"{UNCLEAR} where "
            "that holds 1. Everything measured is in the tables below."
        ]
        if compared
        else []
    )
    told = [line.rstrip() for line in target.getvalue().splitlines()]
    return "\n".join([*told, "", *(wrapped(line, width) for line in (*said, *folded(notes)))]) + "\n"


def wrapped(line: str, width: int) -> str:
    """A long line in several, without breaking paths, which people copy."""
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def label(row: Row) -> str:
    """What a candidate is called."""
    return f"{row['variant']} · {row['runtime']}"


def _title(experiment: str, rows: list[Row]) -> str:
    """The experiment, and what all rows have in common."""
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
    """By batch size, and within one the fastest first; what failed comes last."""
    failed = {"latency": "latency_median_ms", "throughput": "images_per_second"}[experiment]
    return sorted(
        rows,
        key=lambda row: (
            row["batch_size"],
            row[failed] is None,
            SPEED[experiment](row) if row[failed] is not None else 0.0,
        ),
    )


def _table(
    experiment: str, rows: list[Row], verdicts: dict[tuple[str, int], Row], reference: str, width: int
) -> Table | Text:
    """The rows with as many columns as fit; below one another where the fewest do not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = _sorted(experiment, rows)
    columns: dict[str, list[str]] = {}
    if len({row["runtime"] for row in rows}) > 1:
        columns["runtime"] = [row["runtime"] for row in rows]
    if len({row["batch_size"] for row in rows}) > 1:
        columns["batch"] = [str(row["batch_size"]) for row in rows]
    figures = {name: [figure(row) for row in rows] for name, figure in COLUMNS[experiment].items()}
    first, *optional = [name for name, cells in figures.items() if set(cells) != {"–"}] or list(figures)[:1]
    columns[first] = figures[first]
    last = _comparison(rows, verdicts, reference)
    room = width - min(SHORTEST, max(len(row["variant"]) for row in rows)) - 2
    for name in optional:
        if sum(map(_wide, (columns | {name: figures[name]} | last).items())) <= room:
            columns[name] = figures[name]
    columns |= last
    longest = width - sum(map(_wide, columns.items()))
    if longest < min(LEAST_NAME, max(len(row["variant"]) for row in rows)) + 2:
        named = [
            (row["variant"], [(name, cells[number]) for name, cells in columns.items()])
            for number, row in enumerate(rows)
        ]
        return Text("\n".join(blocks(named, width)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="left" if name in ("runtime", "× reference", "") else "right")
    for number, row in enumerate(rows):
        if number and row["batch_size"] != rows[number - 1]["batch_size"]:
            table.add_row()
        table.add_row(Text(broken(row["variant"], max(longest - 2, 3))), *(cells[number] for cells in columns.values()))
    return table


def _comparison(rows: list[Row], verdicts: dict[tuple[str, int], Row], reference: str) -> dict[str, list[str]]:
    """The columns that compare with the reference, and what is to be said of a row."""
    ratios, words = [], []
    for row in rows:
        found = verdicts.get((label(row), row["batch_size"]))
        ratios.append("" if found is None else f"{sig(found['ratio'])} ({_ends(found)})")
        word = row["status"] if row["status"] != "ok" else "reference" if label(row) == reference and verdicts else ""
        if found is not None:
            word = UNCLEAR if found["verdict"] == "indistinguishable" else found["verdict"]
        words.append(word + ("*" if row["conditions"] else ""))
    columns = {"× reference": ratios} if any(ratios) else {}
    return columns | ({"": words} if any(words) else {})


def _ends(found: Row) -> str:
    """The interval of a comparison; a dash where rounds differ too much for one that says anything."""
    ends = interval(found["low"], found["high"])
    return ends if ends[0].isdigit() else "–"


def _wide(column: tuple[str, list[str]]) -> int:
    name, cells = column
    return max(map(len, (name, *cells))) + 2


def folded(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Notes on rows; those that differ in nothing but figures as one line with their range."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for who, what in notes:
        groups.setdefault(re.sub(r"\d+(?=%)", "#", what), []).append((who, what))
    return [line for template, group in groups.items() for line in _lines(template, group)]


def _lines(template: str, group: list[tuple[str, str]]) -> list[str]:
    """The notes on some rows, whose words are `template` and # where percentages stand."""
    mark = "* " if template.startswith("* ") else ""
    same = len({what for _, what in group}) == 1
    if len(group) == 1 or (len(group) <= FOLDED and not same):
        return [f"{mark}{who}: {what.removeprefix(mark)}" for who, what in group]
    figures = zip(*([int(n) for n in re.findall(r"\d+(?=%)", what)] for _, what in group), strict=True)
    ranges = iter([f"{min(f)}" if min(f) == max(f) else f"{min(f)}–{max(f)}" for f in figures])
    body = re.sub("#(?=%)", lambda _: next(ranges), template.removeprefix(mark))
    return [f"{mark}{group[0][0]}, and {len(group) - 1} more: {body}" if same else f"{mark}{len(group)} rows: {body}"]
