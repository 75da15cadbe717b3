"""Find what a run's tables and store say of the model file that is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.settings import load
from tasks import tables
from tasks.caching.store import Store
from tasks.records import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Study

Row = dict[str, Any]
CANDIDATE = ("variant", "runtime", "device")
"""Columns that together name a candidate."""


@dataclass(frozen=True)
class Source:
    """A row of a run's summary that is deployed, and where it comes from."""

    out: Path
    """The folder of artifacts."""
    run: str
    """The run's name."""
    row: Row
    """The row of the table `summary`."""
    study: Study
    """What the run was asked for."""
    variants: tuple[Row, ...]
    """Rows of the table `variants`: those of the deployed variant's parents, the oldest first, and its own."""

    @property
    def variant(self) -> Row:
        """The deployed variant's row of the table `variants`."""
        return self.variants[-1]

    def rows(self, table: str) -> list[Row]:
        """Return the rows of one of the run's tables; none where an older version of burnish did not write it."""
        try:
            return tables.read(self.out, table, self.run).collect().to_dicts()
        except ValueError:
            return []

    def rows_of_candidate(self, table: str) -> list[Row]:
        """Return the rows of a table that are about the deployed candidate."""
        return [row for row in self.rows(table) if all(row[key] == self.row[key] for key in CANDIDATE)]

    def measured(self) -> Row:
        """Return the deployed row's measurement, from the table `benchmarks`; an empty row where there is none."""
        batch = self.row["batch_size"]
        return next((row for row in self.rows_of_candidate("benchmarks") if row["batch_size"] == batch), {})

    def stored(self, variant: Row) -> Path:
        """Return the path of a variant's file, or folder of files, in the store."""
        fields = {key: variant[key] for key in ("path", "sha256", "size_bytes", "format")}
        return Store(self.out / "store").get(Artifact(**fields))


def source_of(out: Path, run: str, row: Row) -> Source:
    """Return where a row of a run's summary comes from."""
    variants = {variant["name"]: variant for variant in tables.read(out, "variants", run).collect().to_dicts()}
    chain = [variants[row["variant"]]]
    while chain[0]["parent"] in variants:
        chain.insert(0, variants[chain[0]["parent"]])
    study = load(str(out / "runs" / run / "study.toml"), [])
    return Source(out=out, run=run, row=row, study=study, variants=tuple(chain))
