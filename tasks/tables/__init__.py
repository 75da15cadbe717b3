"""The tables of a run as Parquet files: fragments are merged into tables, and tables are published and read.

tasks/tables/schema/ declares each table's columns and what is expected of them, tasks/tables/frames.py makes a frame
of rows, tasks/tables/expectations.py checks one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.machine import files
from tasks.tables import checks
from tasks.tables.frames import frame
from tasks.tables.schema import declared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.tables.checks import Failure

__all__ = ["Unfit", "merge", "publish", "read"]


class Unfit(Exception):
    """Tables must not be published, because they do not meet their expectations.

    The message has one line per expectation that is not met: table, expectation, rows and their values.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(tuple(failures))
        self.failures = tuple(failures)

    def __str__(self) -> str:
        return "\n".join(map(str, self.failures))


def publish(fragments: Mapping[str, Path], out: Path, run: str) -> dict[str, Path]:
    """Copy tables that passed `check` to `<out>/tables/<table>/<run>.parquet`, each whole or not at all.

    Raises
    ------
    Unfit
        If a file's columns or types are not its table's; then none is published.
    """
    misshapen = [failure for name, path in fragments.items() for failure in checks.schema(name, path)]
    if misshapen:
        raise Unfit(misshapen)
    published = {}
    for name, path in fragments.items():
        target = Path(out) / "tables" / name / f"{run}.parquet"
        with files.beside(target) as scratch:
            files.replace(Path(shutil.copyfile(path, scratch / target.name)), target)
        published[name] = target
    return published


def merge(name: str, paths: Sequence[Path], target: Path) -> None:
    """Concatenate Parquet fragments of a table, in their order, into one file. Without fragments it has no rows."""
    rows = pl.concat([pl.scan_parquet(path, glob=False) for path in paths]) if paths else frame(name, []).lazy()
    with files.beside(target) as scratch:
        rows.sink_parquet(scratch / target.name, compression="zstd")
        files.replace(scratch / target.name, target)


def read(out: Path, name: str, run: str | None = None) -> pl.LazyFrame:
    """Return a published table of one run, lazily. Without `run`, return all runs' rows, with a column `run`.

    Raises
    ------
    ValueError
        If there is no such table, or no such run of it.
    """
    declared(name)
    paths = {path.stem: path for path in sorted((Path(out) / "tables" / name).glob("*.parquet"))}
    if not paths or (run is not None and run not in paths):
        wanted = f"run {run!r}" if run is not None else "run"
        runs = ", ".join(paths) or "none"
        raise ValueError(f"no {wanted} of table {name} in {Path(out) / 'tables'}; runs there: {runs}")
    if run is not None:
        return pl.scan_parquet(paths[run], glob=False)
    scans = [pl.scan_parquet(path, glob=False).with_columns(run=pl.lit(stem)) for stem, path in paths.items()]
    # Runs of an older version of burnish may lack a column.
    return pl.concat(scans, how="diagonal")
