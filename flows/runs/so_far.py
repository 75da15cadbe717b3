"""What a run without results has so far: its stages, and the tables of those that have ended."""

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
    """The stages that a run has begun, in their order: `task`, `outcome` (computing or stopped where it has none) and
    so on.

    Raises
    ------
    flows.runs.damage.Damaged
        If what a stage wrote of itself is not readable.
    """
    begun = "computing" if is_going(out / "runs" / run) else "stopped"
    return [
        told | {"outcome": begun if told["outcome"] == BEGUN else told["outcome"]} for told in explanations(out, run)
    ]


def tables_so_far(out: Path, run: str) -> tuple[dict[str, pl.LazyFrame], list[str]]:
    """(Rows of the stages of a run that have ended, by table; stages whose stored result is damaged, with the
    reason)."""
    results, store = Results(out), Store(out / "store")
    fragments: dict[str, list[Path]] = {}
    damaged: list[str] = []
    for told in explanations(out, run):
        try:
            # None where the stage has not ended, or its result is not kept
            result = results.read(told["key"])
        except Damaged as error:
            damaged.append(f"{told['task']}: {error}")
            continue
        if isinstance(result, Output) and not isinstance(result, Result):
            # the latter's tables are all the others' rows
            for name, artifact in result.tables.items():
                fragments.setdefault(name, []).append(store.get(artifact))
    tables = {
        name: pl.concat([pl.scan_parquet(path, glob=False) for path in paths]) for name, paths in fragments.items()
    }
    return tables, damaged
