"""A stage's turn in a run: its key, whether its result is stored, and who computes it where several ask at once.

Results are JSON files named by their key, below `<out>/store/results`. A stored result is taken only where it is
readable and every file that it names has its size and hash; else it is removed, said, and computed again. A key is
computed by one process at a time: others wait for its lock and take the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import records
from tasks.caching import why
from tasks.caching.keys import artifacts, digest
from tasks.caching.left import continues
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.machine.files import lock_of, make_folder, remove, write_text
from tasks.machine.locks import held
from tasks.records import Context, Output, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.caching.keys import Stage

LOG = logging.getLogger("burnish")


class Damaged(Exception):
    """A stored result is not one that can be taken."""


class Results:
    """The stored results below an artifacts folder."""

    def __init__(self, out: str | Path) -> None:
        self.store = Store(Path(out) / "store")
        self.folder = self.store.root / "results"

    def write(self, key: str, record: Record) -> None:
        """Store a result: whole and synced, or not at all."""
        result = record.model_dump(mode="json")
        told = {"record": type(record).__name__, "sha256": _sha256(result), "result": result}
        write_text(self.folder / key, json.dumps(told))

    def read(self, key: str) -> Record | None:
        """The result of a key, or None where none is stored.

        Raises
        ------
        Damaged
            If it is not readable, or a file that it names is gone or has changed.
        """
        path = self.folder / key
        try:
            record = _record(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            said = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise Damaged(f"stored result {path.name} is not readable: {said}") from error
        bad = [artifact.path for artifact in artifacts(record) if not self.store.intact(artifact)]
        if bad:
            raise Damaged(f"stored file gone or changed: {', '.join(bad)}")
        return record

    def remove(self, key: str) -> None:
        """Remove the result of a key, whatever stands in its place."""
        remove(self.folder / key)

    def version(self, key: str) -> tuple[int, int] | None:
        """What tells a result from an earlier one of the same key."""
        try:
            found = (self.folder / key).lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


def _sha256(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _record(content: bytes) -> Record:
    """The record that `Results.write` wrote; ValueError where it is anything else."""
    told = json.loads(content)
    if not isinstance(told, dict) or told.keys() != {"record", "sha256", "result"}:
        raise ValueError("not the JSON of a result")
    kind = getattr(records, str(told["record"]), None)
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise ValueError(f"no record is named {told['record']!r}")
    if _sha256(told["result"]) != told["sha256"]:
        raise ValueError("its content is not the one that its hash is of")
    return kind.model_validate(told["result"])


@dataclass(frozen=True, eq=False)
class Request:
    """One stage in one run, with its key."""

    stage: Stage
    context: Context
    label: str
    key: str
    stored: Record | None
    """The stored result; None where it is to be computed."""

    @property
    def results(self) -> Results:
        return Results(self.context.out)

    @property
    def scratch(self) -> Path:
        """Folder of what an interrupted computation goes on from."""
        return scratch_of(self.context, self.key)

    def work(self, log: logging.Logger) -> Work:
        """What the stage's function is handed."""
        return Work(self.results.store, make_folder(self.scratch), log)

    def keep(self, result: Record) -> None:
        """Store the stage's result, then remove what it would have gone on from. An error of writing is the stage's.

        A result with failures that may pass is not stored, so that the next run computes the stage again.
        """
        if isinstance(result, Output) and result.passing:
            LOG.warning(
                "%s: its result is not kept, and the same command computes it again: %s",
                self.label,
                "; ".join(result.passing),
            )
            return
        self.results.write(self.key, result)
        # tasks/caching/sweep.py removes what remains of a finished stage
        shutil.rmtree(self.scratch, ignore_errors=True)


def scratch_of(context: Context, key: str) -> Path:
    """Scratch folder of a key."""
    return Path(context.out).absolute() / "scratch" / key[:16]


@contextmanager
def open_request(stage: Stage, context: Context, inputs: dict[str, Any]) -> Iterator[Request]:
    """Find out whether a stage's result is stored; where it is not, hold its key's lock while it is computed.

    The lock is taken before any device, so that no two runs wait for each other.
    """
    parts = stage.parts(inputs)
    key, label = digest(parts), stage.label_of(inputs)
    results, again = Results(context.out), stage.function.__name__ in context.again
    before = results.version(key)
    found = None if again else _intact(results, key)
    if found is not None:
        why.tell(context, label, key, parts, hit=True)
        yield Request(stage, context, label, key, found)
        return
    lock = lock_of(scratch_of(context, key))
    make_folder(lock.parent)
    with held(lock, lambda: _waits(label)):
        # else another run has done it again meanwhile
        if again and results.version(key) == before:
            found, reason = None, "asked for again" if before else ""
            results.remove(key)
        else:
            found, reason = _settled(results, key, label)
        left = "" if found is not None else continues(scratch_of(context, key))
        why.tell(context, label, key, parts, hit=found is not None, reason=reason, left=left)
        yield Request(stage, context, label, key, found)


def _waits(label: str) -> None:
    text = f"{label}: waiting for another run, which computes the same"
    LOG.info(text, extra={"stage": text})


def _intact(results: Results, key: str) -> Record | None:
    """The stored result, or None where there is none that can be taken."""
    try:
        return results.read(key)
    except Damaged:
        return None


def _settled(results: Results, key: str, label: str) -> tuple[Record | None, str]:
    """The stored result, or why there is none; one that cannot be taken is removed. The key's lock is held."""
    try:
        return results.read(key), ""
    except Damaged as damaged:
        LOG.warning("%s: %s; it is removed and computed again", label, damaged)
        results.remove(key)
        return None, str(damaged)
