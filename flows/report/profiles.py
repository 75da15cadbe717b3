"""The report's section on profiles of a run's variants, drawn by `burnish profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.report import profiling_charts
from flows.report.columns import count
from flows.report.grids import grid
from flows.terminal.profile_text import TOP, certificate, doubt, headline
from tasks.profiling.profile import read
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from flows.report.columns import Spec


OPERATORS: list[Spec] = [
    ("Operator", "", "name", str),
    ("Module", "", "path", str),
    ("Type", "", "type", str),
    ("Kind", "", "kind", str),
    ("Precision", "", "precision", str),
    ("Calls", "", "calls", count),
    ("Time", "ms per query", "mean_ms", sig),
    ("Share", "%", "share", lambda share: f"{share * 100:.1f}"),
    ("Implementation", "", "provider", str),
]


def profiles(run_folder: Path) -> list[dict[str, Any]]:
    """Return what the report shows of each profile of a run. One that is not to be trusted has only its doubt."""
    shown: list[dict[str, Any]] = []
    for file in sorted((run_folder / "profiles").glob("*/profile.json")):
        result = read(file.parent)
        if not result.trusted:
            shown.append({"name": result.name, "runtime": result.runtime, "doubt": doubt(result)})
            continue
        flames = [profiling_charts.flame(result, width) for width in (1000, 440)]
        shown.append(
            {
                "id": file.parent.name,
                "name": result.name,
                "runtime": result.runtime,
                "headline": headline(result),
                "certificate": certificate(result),
                "findings": result.findings,
                "flames": flames if all(flames) else None,
                "types": profiling_charts.by_type(result),
                "operators": grid(
                    OPERATORS,
                    result.operators[:TOP],
                    f"The first of {len(result.operators)} operators by time; operators.parquet has all",
                ),
            }
        )
    return shown
