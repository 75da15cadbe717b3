"""What `burnish profile` prints: the conditions, the operators with the most time, and why the model is not faster."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING

from tasks.summary import sig

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.profile import Profile

TOP = 15
NODES = 6
"""So many nodes of a finding are named in a terminal; findings.parquet and the report have all."""
WIDE = 100
"""Columns from which a terminal is shown what executes an operator, too."""
MAIN = 0.2
"""Share of the time from which the first finding is the main cause."""


def text(result: Profile, width: int | None = None) -> str:
    """The conditions, the operators with the most time and the findings, for a terminal."""
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
        told = (
            f"disturbed: {result.conditions}; times and shares may be wrong, profile it again when the machine is quiet"
        )
        console.print(Text(told, style="bold yellow"))
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
        lines = [finding.evidence, *([f"nodes: {', '.join(finding.nodes[:NODES])}{more}"] if finding.nodes else []),
                 f"remedy: {finding.remedy}"]  # fmt: skip
        for line in lines:
            console.print(Text(line), soft_wrap=False, style="", width=width)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n") + "\n"


def _operators(result: Profile, width: int) -> Table:
    """The operators with the most time; on a narrow terminal without what executes them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = result.operators[:TOP]
    modules, by = any(row["path"] for row in rows), width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in (
        "operator",
        *(["module"] if modules else []),
        "type",
        "",
        "ms a query",
        "share",
        *(["by"] if by else []),
    ):
        table.add_column(title, justify="right" if title in ("ms a query", "share") else "left", no_wrap=True)
    longest = (width - 36) // (2 + modules + by)
    for row in rows:
        module = row["path"].replace("/", ".")
        words = [row["name"], *(["" if module == row["name"] else module] if modules else []), row["type"]]
        provider = "" if row["provider"] == row["type"] else row["provider"]
        table.add_row(*(Text(_short(word, longest)) for word in words), row["precision"] or "", sig(row["mean_ms"]),
                      f"{row['share']:.1%}", *([Text(_short(provider, longest))] if by else []))  # fmt: skip
    return table


def certificate(result: Profile) -> str:
    """The machine while it was timed and profiled, in words."""
    row = result.certificate
    figures = [
        ("cpu_model", "{}"), ("affinity", "processors {}"), ("cpu_governor", "governor {}"), ("cpu_mhz", "{:.0f} MHz"),
        ("load_average", "load average {:.1f}"), ("foreign_cpu", "other processes used {:.0%} of the cores"),
        ("gpu_sm_mhz", "GPU {:.0f} MHz"), ("gpu_temperature_c", "{:.0f} °C"), ("gpu_driver", "driver {}"),
    ]  # fmt: skip
    return ", ".join(words.format(row[key]) for key, words in figures if row.get(key) is not None)


def _short(word: str, longest: int) -> str:
    """The beginning and the end of a long name; numbers at its end tell it from others."""
    return word if len(word) <= longest else f"{word[: longest // 2]}…{word[-((longest - 1) // 2) :]}"


def headline(result: Profile) -> str:
    """What was profiled, and how its operators' time stands to its latency."""
    threads = f", {result.threads} thread{'s' if result.threads > 1 else ''}" if result.device == "cpu" else ""
    words = (
        f"{result.name} in {result.runtime} ({result.provider}), batch {result.batch_size}, {result.device}{threads}: "
        f"median {sig(result.latency_ms)} ms a query"
    )
    if result.enough:
        words += (
            f"; its operators take {sig(result.operators_ms)} ms under the profiler (mean of {result.queries} queries)"
        )
    if result.split_ms:
        parts = zip(("H2D", "enqueue", "compute", "D2H"), result.split_ms, strict=True)
        words += "; " + ", ".join(f"{name} {sig(ms)} ms" for name, ms in parts)
    return words


def doubt(result: Profile) -> str:
    """Why a profile does not stand in a report, and what to do."""
    if not result.enough:
        return "too few queries"
    return f"{result.conditions}; profile it again when the machine is quiet"
