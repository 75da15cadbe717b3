"""Runs without results: whether one is still going, has failed or was interrupted, and how it goes on."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tasks.machine.causes import cause
from tasks.machine.devices import Unavailable
from tasks.machine.files import write_text
from tasks.machine.locks import held
from tasks.machine.space import DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOING = ".running"
"""File in a run's folder that its process holds the lock of."""
FAILED = "failed.txt"
"""File in a run's folder that says why it failed."""


class Unfinished(Exception):
    """The study ran to its end, but a table was not fit to be published, or no variant could be measured."""


def failure(error: Exception) -> str:
    """Why a run failed, in one line; the class of the error where its message alone is not for a person."""
    plain = isinstance(error, (ValueError, Unavailable, Unfinished, DiskFull))
    return str(error) if plain else f"{type(error).__name__}: {cause(error)}"


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """Show that the run of a folder is going, and write down why it fails. One that is interrupted leaves neither."""
    with held(folder / GOING):
        try:
            yield
        except Exception as error:
            # the disk may be what failed
            with suppress(OSError, DiskFull):
                write_text(folder / FAILED, f"{failure(error)}\n")
            raise


def unfinished(out: Path, run: str) -> str:
    """What a person should know of a run that has not come to its end, and what goes on; empty for one that has."""
    folder = out / "runs" / run
    if (folder / "result.json").is_file():
        return ""
    if is_going(folder):
        return f"run {run} is still going, so it has no results yet"
    command = f"burnish run {folder / 'study.toml'} --out {out}"
    with suppress(OSError, UnicodeDecodeError):
        why = (folder / FAILED).read_text(encoding="utf-8").strip()
        return (
            f"run {run} failed, so it has no results: {why}; once that is mended, this goes on where it "
            f"stopped: {command}"
        )
    return f"run {run} was interrupted, so it has no results yet; this goes on where it stopped: {command}"


def is_going(folder: Path) -> bool:
    """Whether a process is at work on the run of a folder."""
    try:
        with (folder / GOING).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # the file is not there, or the file system has no locks
        return False
    return False
