"""`Work`, which a stage is handed besides its records: the store, a scratch folder and a logger."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.caching.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.records import Artifact


@dataclass(frozen=True)
class Work:
    """The surroundings of one stage."""

    store: Store
    scratch: Path
    """A folder that belongs to the stage's cache key and is removed when the stage has finished. A run that was killed
    finds there what it had written, such as checkpoints and finished trials."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("burnish"))
    begin: float = 0.0
    """Share of the stage, in 0..1, that is done when this part of it begins."""
    end: float = 1.0
    """Share of the stage, in 0..1, that is done when this part of it ends."""

    @classmethod
    def at(cls, out: str | Path, stage: str = "stage") -> Work:
        """Return surroundings for calling a stage by hand, below the folder `out`."""
        folder = Path(out) / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=folder))
        return cls(Store(Path(out) / "store"), scratch, logging.getLogger(f"burnish.{stage}"))

    def progress(self, done: float, total: float, text: str) -> None:
        """Report that `done` of `total` is done: a bar in a terminal, a log line from time to time elsewhere."""
        share = min(done / total, 1.0) if total else 1.0
        self.log.info("%s", text, extra={"progress": (self.begin + share * (self.end - self.begin), 1.0)})

    def part(self, begin: float, end: float) -> Work:
        """Return surroundings for a part of the stage, which reports its own progress from 0 to 1.

        `begin` and `end` are the shares of this work that are done when the part begins and ends.
        """
        length = self.end - self.begin
        return replace(self, begin=self.begin + begin * length, end=self.begin + end * length)

    def rows(self, table: str, rows: Iterable[Mapping[str, object]]) -> Artifact:
        """Store rows of a table as a Parquet fragment with that table's columns and types."""
        from tasks.tables.frames import frame

        with self.store.temporary() as folder:
            path = folder / f"{table}.parquet"
            frame(table, rows).write_parquet(path, compression="zstd")
            return self.store.put(path, "parquet")
