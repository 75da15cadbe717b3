"""Read what a run without results has so far: its stages, and the tables of the stages that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from flows.runs.damage import explanations
from flows.runs.unfinished import is_going
from tasks.caching.results import Damaged, Results
from tasks.caching.store import Store
from tasks.caching.why import BEGUN
from tasks.records import Output, Result

if TYPE_CHECKING:
    from pathlib import Path


def stages(out: Path, run: str) -> list[dict[str, Any]]:
    """Return the stages that a run has begun, in their order, as tasks/caching/why.py writes them.

    The `outcome` of a stage that has not ended is "computing" while the run is going, else "stopped".

    Raises
    ------
    flows.runs.damage.Damaged
        If a file that a stage wrote cannot be read.
    """
    unended = "computing" if is_going(out / "runs" / run) else "stopped"
    return [
        stage | {"outcome": unended if stage["outcome"] == BEGUN else stage["outcome"]}
        for stage in explanations(out, run)
    ]


def tables_so_far(out: Path, run: str) -> tuple[dict[str, pl.LazyFrame], list[str]]:
    """Return the tables of the stages that have ended, and which stages have a damaged result.

    Returns
    -------
    tuple
        Rows of each table, by its name; and one line per stage whose stored result is damaged, with the reason.
    """
    results = Results(out)
    store = Store(out / "store")
    fragments: dict[str, list[Path]] = {}
    damaged: list[str] = []
    for stage in explanations(out, run):
        try:
            # None where the stage has not ended, or its result is no longer stored.
            result = results.read(stage["key"])
        except Damaged as error:
            damaged.append(f"{stage['task']}: {error}")
            continue
        # A Result, of the last stage, is left out: its tables repeat the rows of all other stages.
        if isinstance(result, Output) and not isinstance(result, Result):
            for name, artifact in result.tables.items():
                fragments.setdefault(name, []).append(store.get(artifact))
    tables = {
        name: pl.concat([pl.scan_parquet(path, glob=False) for path in paths]) for name, paths in fragments.items()
    }
    return tables, damaged
