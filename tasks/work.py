"""What a stage is handed besides its records: the store, a scratch folder that survives an interruption, a logger."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.store import Store

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

    @classmethod
    def at(cls, out: str | Path, stage: str = "stage") -> Work:
        """Surroundings for calling a stage by hand, below the folder `out`."""
        scratch = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=_made(Path(out) / "scratch")))
        return cls(Store(Path(out) / "store"), scratch, logging.getLogger(f"burnish.{stage}"))

    def progress(self, done: float, total: float, text: str) -> None:
        """Report progress: a bar in a terminal, a log line now and then elsewhere."""
        self.log.info("%s", text, extra={"progress": (done, total)})

    def rows(self, table: str, rows: Iterable[Mapping[str, object]]) -> Artifact:
        """Store rows of a table as a Parquet fragment with that table's columns and types."""
        from tasks import tables

        with self.store.temporary() as folder:
            path = folder / f"{table}.parquet"
            tables.frame(table, rows).write_parquet(path, compression="zstd")
            return self.store.put(path, "parquet")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
