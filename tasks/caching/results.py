"""A run's request for a stage's result: taken from the store, or computed by one process while others wait for it.

Results are JSON files named by their key, below `<out>/store/results`. A stored result is used only if it is readable
and every file that it names has its size and hash. Otherwise it is removed with a warning and computed again. A key is
computed by one process at a time; other processes wait for its lock and then use the result.
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
from tasks.caching.keys import CODE, artifacts, digest, edited
from tasks.caching.leftovers import continues
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
    """A stored result cannot be used."""


class Results:
    """The stored results below an artifacts folder."""

    def __init__(self, out: str | Path) -> None:
        self.store = Store(Path(out) / "store")
        self.folder = self.store.root / "results"

    def write(self, key: str, record: Record) -> None:
        """Store a result: whole and synced, or not at all."""
        result = record.model_dump(mode="json")
        content = {"record": type(record).__name__, "sha256": _sha256(result), "result": result}
        write_text(self.folder / key, json.dumps(content))

    def read(self, key: str) -> Record | None:
        """Return the stored result of a key. None means that none is stored.

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
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise Damaged(f"stored result {path.name} is not readable: {reason}") from error
        bad = [artifact.path for artifact in artifacts(record) if not self.store.intact(artifact)]
        if bad:
            raise Damaged(f"stored file gone or changed: {', '.join(bad)}")
        return record

    def remove(self, key: str) -> None:
        """Remove the file or folder that has the name of a key's result, if there is one."""
        remove(self.folder / key)

    def version(self, key: str) -> tuple[int, int] | None:
        """Return what distinguishes a key's stored result from an earlier or later one, or None where there is none."""
        try:
            status = (self.folder / key).lstat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def _sha256(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _record(content: bytes) -> Record:
    """Return the record that `Results.write` wrote. Raise ValueError if the content is anything else."""
    stored = json.loads(content)
    if not isinstance(stored, dict) or stored.keys() != {"record", "sha256", "result"}:
        raise ValueError("not the JSON of a result")
    kind = getattr(records, str(stored["record"]), None)
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise ValueError(f"no record is named {stored['record']!r}")
    if _sha256(stored["result"]) != stored["sha256"]:
        raise ValueError("its content does not match its hash")
    return kind.model_validate(stored["result"])


@dataclass(frozen=True, eq=False)
class Request:
    """The request of one run for the result of one stage."""

    stage: Stage
    context: Context
    label: str
    key: str
    stored: Record | None
    """The stored result. None means that it must be computed."""
    modules: tuple[str, ...] = ()
    """The project's modules whose code is part of the key."""

    @property
    def results(self) -> Results:
        """The stored results of the run's artifacts folder."""
        return Results(self.context.out)

    @property
    def scratch(self) -> Path:
        """The folder from whose files an interrupted computation continues."""
        return scratch_of(self.context, self.key)

    def work(self, log: logging.Logger) -> Work:
        """Return the surroundings that the stage's function is handed."""
        return Work(self.results.store, make_folder(self.scratch), log)

    def keep(self, result: Record) -> None:
        """Store the stage's result, then remove its scratch folder. An error of writing makes the stage fail.

        A result with failures that may not happen again (`Output.passing`) is not stored, so that the next run computes
        the stage again.
        """
        if isinstance(result, Output) and result.passing:
            LOG.warning(
                "%s: its result is not kept, and the same command computes it again: %s",
                self.label,
                "; ".join(result.passing),
            )
            return
        if changed := edited(self.modules):
            LOG.warning(
                "%s: its result is not kept, and the next run computes it again, because code was edited meanwhile: %s",
                self.label,
                ", ".join(changed),
            )
            return
        self.results.write(self.key, result)
        # What cannot be removed here, tasks/caching/sweep.py removes at the start of the next run.
        shutil.rmtree(self.scratch, ignore_errors=True)


def scratch_of(context: Context, key: str) -> Path:
    """Return the scratch folder of a key."""
    return Path(context.out).absolute() / "scratch" / key[:16]


@contextmanager
def open_request(stage: Stage, context: Context, inputs: dict[str, Any]) -> Iterator[Request]:
    """Find out whether a stage's result is stored. If it is not, hold its key's lock while the block computes it.

    The lock is taken before any device is held, so that no two runs wait for each other.
    """
    parts = stage.parts(inputs)
    modules = tuple(name.removeprefix(CODE) for name in parts if name.startswith(CODE))
    key = digest(parts)
    label = stage.label_of(inputs)
    results = Results(context.out)
    again = stage.function.__name__ in context.again
    before = results.version(key)
    stored = None if again else _intact(results, key)
    if stored is not None:
        why.tell(context, label, key, parts, hit=True)
        yield Request(stage, context, label, key, stored, modules)
        return
    lock = lock_of(scratch_of(context, key))
    make_folder(lock.parent)
    with held(lock, lambda: _say_waiting(label)):
        # If the version differs, another run has computed the stage again meanwhile, and its result is used.
        if again and results.version(key) == before:
            stored = None
            reason = "asked for again" if before else ""
            results.remove(key)
        else:
            stored, reason = _read_or_remove(results, key, label)
        begins = "" if stored is not None else continues(scratch_of(context, key))
        why.tell(context, label, key, parts, hit=stored is not None, reason=reason, continues=begins)
        yield Request(stage, context, label, key, stored, modules)


def _say_waiting(label: str) -> None:
    text = f"{label}: waiting for another run, which computes the same"
    LOG.info(text, extra={"stage": text})


def _intact(results: Results, key: str) -> Record | None:
    """Return the stored result of a key. None means that there is none that can be used."""
    try:
        return results.read(key)
    except Damaged:
        return None


def _read_or_remove(results: Results, key: str, label: str) -> tuple[Record | None, str]:
    """Return the stored result of a key, or the reason why it cannot be used; then it is removed.

    The caller must hold the key's lock.
    """
    try:
        return results.read(key), ""
    except Damaged as damaged:
        LOG.warning("%s: %s; it is removed and computed again", label, damaged)
        results.remove(key)
        return None, str(damaged)
