"""What the report of one run is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import polars as pl

    from flows.report.grids import Row
    from flows.report.pictures import Images
    from tasks.records import Study

LINKED = ("benchmark_results.csv", "data_docs/index.html")
"""Files of the run that the report has links to."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that the report of one run is made of."""

    tables: Mapping[str, pl.DataFrame | pl.LazyFrame]
    """The run's tables; those of many rows may be lazy, and any may be missing."""
    study: Study
    environment: Row
    """The machine and the libraries, as environment.json has them."""
    run: str
    profiles: Sequence[Row] = ()
    """As flows.report.profiles gives them."""
    images: Images | str = "the report was made without the store"
    """The prepared images, or why they are not there."""
    exported: Sequence[Row] = ()
    """As flows.report.graphs gives them."""
    unfinished: str = ""
    """Why the run has no results, as flows.runs.unfinished says it; empty: it has."""
    begun: Sequence[Row] = ()
    """The stages of a run without results, as flows.runs.so_far gives them."""
    files: Collection[str] = field(default=LINKED)
    """Those of `LINKED` that are there."""

    @cached_property
    def small(self) -> dict[str, pl.DataFrame]:
        """The tables that are in memory."""
        import polars as pl

        return {name: table for name, table in self.tables.items() if isinstance(table, pl.DataFrame)}

    def images_of(self, split: str) -> int | None:
        """Return the number of images of a split, None where it is not known."""
        rows = self.small["datasets"].iter_rows(named=True) if "datasets" in self.small else ()
        return next((row["rows"] for row in rows if row["split"] == split), None)

    @cached_property
    def validation_images(self) -> int | None:
        return self.images_of("validation")
