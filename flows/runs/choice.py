"""Find the run that a command is about: the one that the user names, or the newest."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.runs.unfinished import unfinished
from flows.settings import Mistake

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class StoredVariant:
    """A variant of a run, and its file."""

    row: dict[str, Any]
    """Its row of the table `variants`."""
    path: Path
    others: tuple[dict[str, Any], ...]
    """The rows of the run's variants that have a file, its own among them."""


def chosen_run(out: Path, run: str | None, file: str) -> str:
    """Return the name of a run that has left `file` in its folder: `run`, or the newest such run where that is None.

    Raises
    ------
    Mistake
        If no run has the file, or the one that is named has not. Where that run has no results, the message says why.
    """
    complete = _runs_with(out, file)
    begun = _runs_with(out, "study.toml")
    if not complete and not begun:
        raise Mistake(f"no runs in {out / 'runs'}; start one with: burnish run quickstart")
    wanted = run or (complete or begun)[-1]
    if wanted in complete:
        return wanted
    if wanted in begun:
        raise Mistake(unfinished(out, wanted))
    raise Mistake(f"no run {run!r} in {out / 'runs'}; there is {', '.join((complete or begun)[-5:])}")


def stored_variant(out: Path, run: str, name: str) -> StoredVariant:
    """Return a variant of a run.

    Raises
    ------
    Mistake
        If the run has no such variant, or the variant failed or was skipped.
    """
    from tasks import tables
    from tasks.caching.store import Store
    from tasks.records import Artifact

    rows = {row["name"]: row for row in tables.read(out, "variants", run).collect().to_dicts()}
    if name not in rows:
        near = difflib.get_close_matches(name, rows, 3, 0.4) or list(rows)[:5]
        raise Mistake(f"{name} is neither a file nor a variant of run {run}; variants like it: {', '.join(near)}")
    row = rows[name]
    if row["status"] != "ok":
        raise Mistake(f"{name} was not made: {row['status']}, {row['error']}")
    artifact = Artifact(path=row["path"], sha256=row["sha256"], size_bytes=row["size_bytes"], format=row["format"])
    others = tuple(other for other in rows.values() if other["status"] == "ok")
    return StoredVariant(row, Store(out / "store").get(artifact), others)


def _runs_with(out: Path, file: str) -> list[str]:
    """Return the names of the runs that have left a file, the newest last.

    A run's name ends with the date and the time at which it started.
    """
    names = {path.parent.name for path in (out / "runs").glob(f"*/{file}")}
    return sorted(names, key=lambda name: name.rpartition("-")[0].rpartition("-")[2] + name.rpartition("-")[2])
