"""What a stage is handed besides its records: the store, a scratch folder that survives an interruption, a logger."""

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
    """The surroundings of one stage.

    `scratch` belongs to the stage's cache key: a run that was killed finds there what it had written (checkpoints,
    finished trials); it is removed when the stage has finished.
    """

    store: Store
    scratch: Path
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("burnish"))
    begin: float = 0.0
    """Share of the stage that is done when this part of it begins."""
    end: float = 1.0
    """Share of the stage that is done when this part of it ends."""

    @classmethod
    def at(cls, out: str | Path, stage: str = "stage") -> Work:
        """Surroundings for calling a stage by hand, below the folder `out`."""
        scratch = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=_made(Path(out) / "scratch")))
        return cls(Store(Path(out) / "store"), scratch, logging.getLogger(f"burnish.{stage}"))

    def progress(self, done: float, total: float, text: str) -> None:
        """Report progress: a bar in a terminal, a log line now and then elsewhere."""
        share = min(done / total, 1.0) if total else 1.0
        self.log.info("%s", text, extra={"progress": (self.begin + share * (self.end - self.begin), 1.0)})

    def part(self, begin: float, end: float) -> Work:
        """Surroundings for a part of the stage, which reports its own progress from 0 to 1.

        `begin` and `end`: shares of this work that are done when the part begins and ends.
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


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
