"""Tell whether a run without results is still going, has failed or was interrupted, and how it can go on."""

from __future__ import annotations

import fcntl
import shlex
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
"""File in a run's folder. The run's process holds the kernel's lock on it."""
FAILED = "failed.txt"
"""File in a run's folder that says why it failed."""


class Unfinished(Exception):
    """All stages ended, but a table was not fit to be published, or no variant could be measured."""


def failure(error: Exception) -> str:
    """Return in one line why a run failed, with the class of an error whose message was not written for the user."""
    is_for_user = isinstance(error, (ValueError, Unavailable, Unfinished, DiskFull))
    return str(error) if is_for_user else f"{type(error).__name__}: {cause(error)}"


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """Show that the run of a folder is going, and write the reason into the folder if it fails.

    A run that is interrupted leaves neither the lock nor a reason.
    """
    with held(folder / GOING):
        try:
            yield
        except Exception as error:
            # The run may have failed because nothing can be written to this disk.
            with suppress(OSError, DiskFull):
                write_text(folder / FAILED, f"{failure(error)}\n")
            raise


def unfinished(out: Path, run: str) -> str:
    """Return why a run has no results, and the command that goes on with it; empty for a run that has results."""
    folder = out / "runs" / run
    if (folder / "result.json").is_file():
        return ""
    if is_going(folder):
        return f"run {run} is still going, so it has no results yet"
    command = shlex.join(["burnish", "run", str(folder / "study.toml"), "--out", str(out)])
    with suppress(OSError, UnicodeDecodeError):
        reason = (folder / FAILED).read_text(encoding="utf-8").strip()
        return (
            f"run {run} failed, so it has no results: {reason}; once that is mended, this goes on where it "
            f"stopped: {command}"
        )
    return f"run {run} was interrupted, so it has no results yet; this goes on where it stopped: {command}"


def is_going(folder: Path) -> bool:
    """Return whether a process is at work on the run of a folder."""
    try:
        with (folder / GOING).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # The file does not exist, or the file system has no locks.
        return False
    return False
