"""What runs that died have left below an artifacts folder: removed at the next start.

Whatever is being worked on is locked (tasks/machine/locks.py), and stays. So does what an interrupted stage goes on
from, for a week.
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
"""An interrupted stage's checkpoints are kept for so long after they were last written to: its command may come
again."""
UNFINISHED_IN = ("store/results", "store/last/*", "tables/*", "profiles", "runs/*", "runs/*/why", "runs/*/profiles")
"""Folders in which files are written under a temporary name."""


def sweep(out: Path, log: logging.Logger) -> None:
    """Remove temporary files of dead runs, and scratch folders that no run will go on from."""
    if not lockable(out):
        return
    removed = [path for path in (*_temporary(out), *_scratch(out)) if _remove_dead(path, log)]
    folders = [path.name for path in removed if path.suffix != LOCK]
    if folders:
        log.info("removed %d files and folders that interrupted runs had left in %s", len(folders), out)


def _temporary(out: Path) -> Iterator[Path]:
    """Files that are or were being written. Folders come before their locks, which go with them."""
    found = [*(out / "store" / "tmp").glob("*")]
    for folder in UNFINISHED_IN:
        found += out.glob(f"{folder}/{UNFINISHED}*")
    yield from sorted(found)


def _scratch(out: Path) -> Iterator[Path]:
    """Scratch folders of stages that are finished, or that were interrupted long ago, and locks without a folder."""
    finished = {path.name[:16] for path in (out / "store" / "results").glob("*")}
    for path in sorted((*(out / "scratch").glob("*"), *out.glob(".bench-*"))):
        if path.suffix == LOCK:
            if not path.with_suffix("").exists():
                yield path
        elif path.name in finished or _days(path) > KEEP_DAYS:
            yield path


def _days(folder: Path) -> float:
    """Days since anything in a folder was last written to."""
    newest = folder.stat().st_mtime
    for path in folder.rglob("*"):
        try:
            newest = max(newest, path.lstat().st_mtime)
        except FileNotFoundError:
            # a live run has just removed it
            return 0.0
    return (time.time() - newest) / 86_400


def _remove_dead(path: Path, log: logging.Logger) -> bool:
    """Remove a file or folder unless its lock is held; whether it was removed."""
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
