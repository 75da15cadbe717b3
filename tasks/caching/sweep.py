"""Removal of the files that dead runs have left below an artifacts folder, at the start of the next run.

A file that a live run works on is locked (tasks/machine/locks.py) and stays. The files from which an interrupted stage
would continue stay for a week.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.files import LOCK, UNFINISHED, lock_of, remove
from tasks.machine.locks import lockable, release, take

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

KEEP_DAYS = 7
"""Days for which an interrupted stage's files are kept after the last write, because its command may be run again."""
UNFINISHED_IN = ("store/results", "store/last/*", "tables/*", "profiles", "runs/*", "runs/*/why", "runs/*/profiles")
"""Folders below the artifacts folder in which files are written under a temporary name."""


def sweep(out: Path, log: logging.Logger) -> None:
    """Remove temporary files of dead runs, and scratch folders from which no run will continue."""
    if not lockable(out):
        return
    removed = [path for path in (*_temporary(out), *_scratch(out)) if _remove_dead(path, log)]
    folders = [path.name for path in removed if path.suffix != LOCK]
    if folders:
        log.info("removed %d files and folders that interrupted runs had left in %s", len(folders), out)


def _temporary(out: Path) -> Iterator[Path]:
    """Yield files and folders that are being written, or were when a run died. Folders come before their locks."""
    paths = [*(out / "store" / "tmp").glob("*")]
    for folder in UNFINISHED_IN:
        paths += out.glob(f"{folder}/{UNFINISHED}*")
    yield from sorted(paths)


def _scratch(out: Path) -> Iterator[Path]:
    """Yield scratch folders of stages that finished or were interrupted long ago, and locks without their folder."""
    finished = {path.name[:16] for path in (out / "store" / "results").glob("*")}
    for path in sorted((*(out / "scratch").glob("*"), *out.glob(".bench-*"))):
        if path.suffix == LOCK:
            if not path.with_suffix("").exists():
                yield path
        elif path.name in finished or _days(path) > KEEP_DAYS:
            yield path


def _days(folder: Path) -> float:
    """Return the days since anything in a folder was last written to."""
    newest = folder.stat().st_mtime
    for path in folder.rglob("*"):
        try:
            newest = max(newest, path.lstat().st_mtime)
        except FileNotFoundError:
            # A live run has just removed it.
            return 0.0
    return (time.time() - newest) / 86_400


def _remove_dead(path: Path, log: logging.Logger) -> bool:
    """Remove a file or folder unless its lock is held, and return whether it was removed."""
    try:
        lock = lock_of(path) if path.is_dir() else path
        handle = take(lock) if path.exists() else None
        if handle is None:
            return False
        try:
            remove(path)
        finally:
            release(handle, lock)
    except OSError as error:
        log.warning("%s was left by an interrupted run and cannot be removed: %s", path, error.strerror or error)
        return False
    return True
