"""The text that `burnish profile` prints: conditions, operators with the most time, why the model is not faster."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING

from flows.terminal.names import broken, shared
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.profiling.profile import Profile

TOP = 15
"""Number of operators in the table; operators.parquet and the report have all."""
NODES = 6
"""Number of a finding's nodes that are named; findings.parquet and the report have all."""
WIDE = 100
"""From this width on, in characters, the table also says what executes an operator."""
GAP = 2
"""Characters between two columns of the table."""
MAIN = 0.2
"""The first finding is the main cause if it explains at least this share of the time."""


def text(result: Profile, width: int | None = None) -> str:
    """Return the conditions, the operators with the most time and the findings as text.

    `width` is in characters; None takes the terminal's.
    """
    from rich.console import Console
    from rich.text import Text

    terminal = sys.stdout.isatty()
    width = width or min(shutil.get_terminal_size((120, 24)).columns, 140)
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    console.print(Text(headline(result)))
    if result.certificate:
        console.print(Text(f"certificate: {certificate(result)}"))
    if result.conditions:
        warning = (
            f"disturbed: {result.conditions}; times and shares may be wrong, profile it again when the machine is quiet"
        )
        console.print(Text(warning, style="bold yellow"))
    if result.enough:
        console.print(_operators(result, width))
        if rest := result.operators[TOP:]:
            console.print(Text(f"and {len(rest)} more, {sum(row['share'] for row in rest):.1%} of the time"))
    console.print(Text("\nwhy is it not faster?", style="bold"))
    if not result.findings:
        console.print(Text("nothing found"))
    styles = {"high": "bold red", "medium": "yellow", "low": "cyan"}
    for number, finding in enumerate(result.findings):
        main = "main cause, " if number == 0 and finding.share >= MAIN else ""
        console.print(Text(f"{main}{finding.severity}: {finding.what}", style=styles[finding.severity]))
        more = f" and {len(finding.nodes) - NODES} more" if len(finding.nodes) > NODES else ""
        lines = [
            finding.evidence,
            *([f"nodes: {', '.join(finding.nodes[:NODES])}{more}"] if finding.nodes else []),
            f"remedy: {finding.remedy}",
        ]
        for line in lines:
            console.print(Text(line), soft_wrap=False, style="", width=width)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def _operators(result: Profile, width: int) -> Table:
    """Return a table of the operators with the most time. On a narrow terminal it does not say what executes them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = result.operators[:TOP]
    module = [row["path"].replace("/", ".") for row in rows]
    names = {"operator": [row["name"] for row in rows]}
    if any(module):
        names["module"] = ["" if path == row["name"] else path for path, row in zip(module, rows, strict=True)]
    names["type"] = [row["type"] for row in rows]
    figures = {
        "": [row["precision"] or "" for row in rows],
        "ms per query": [sig(row["mean_ms"]) for row in rows],
        "share": [f"{row['share']:.1%}" for row in rows],
    }
    titles = [*names, *figures]
    if width >= WIDE:
        names["by"] = ["" if row["provider"] == row["type"] else row["provider"] for row in rows]
        titles.append("by")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in ("ms per query", "share") else "left", no_wrap=True)
    # Figures keep their width; the columns of names share what is left of the line.
    taken = sum(max(map(len, (title, *cells))) + GAP for title, cells in figures.items())
    wanted = [max(map(len, (title, *cells))) for title, cells in names.items()]
    widths = dict(zip(names, shared(wanted, width - taken - GAP * len(names)), strict=True))
    cells = {title: [broken(name, widths[title]) for name in column] for title, column in names.items()} | figures
    for number in range(len(rows)):
        table.add_row(*(Text(cells[title][number]) for title in titles))
    return table


def certificate(result: Profile) -> str:
    """Return in words the state of the machine while the model was timed and profiled."""
    row = result.certificate
    figures = [
        ("cpu_model", "{}"),
        ("affinity", "processors {}"),
        ("cpu_governor", "governor {}"),
        ("cpu_mhz", "{:.0f} MHz"),
        ("load_average", "load average {:.1f}"),
        ("foreign_cpu", "other processes used {:.0%} of the cores"),
        ("gpu_sm_mhz", "GPU {:.0f} MHz"),
        ("gpu_temperature_c", "{:.0f} °C"),
        ("gpu_driver", "driver {}"),
    ]
    return ", ".join(words.format(row[key]) for key, words in figures if row.get(key) is not None)


def headline(result: Profile) -> str:
    """Return in words what was profiled, its latency, and the time of its operators."""
    threads = f", {result.threads} thread{'s' if result.threads > 1 else ''}" if result.device == "cpu" else ""
    words = (
        f"{result.name} in {result.runtime} ({result.provider}), batch {result.batch_size}, {result.device}{threads}: "
        f"median {sig(result.latency_ms)} ms per query"
    )
    if result.enough:
        words += f"; its operators take {sig(result.operators_ms)} ms per query under the profiler ({_counted(result)})"
    if result.split_ms:
        parts = zip(("H2D", "enqueue", "compute", "D2H"), result.split_ms, strict=True)
        words += "; " + ", ".join(f"{name} {sig(ms)} ms" for name, ms in parts)
    return words


def _counted(result: Profile) -> str:
    """Return in words which of the recorded queries the operators' times are the mean of."""
    if result.queries < result.recorded:
        return f"mean of the calmest {result.queries} of {result.recorded} recorded queries"
    return f"mean of {result.queries} recorded queries"


def doubt(result: Profile) -> str:
    """Return why a profile is left out of the report, and what to do."""
    if not result.enough:
        return "too few queries"
    return f"{result.conditions}; profile it again when the machine is quiet"
