"""Locks of the kernel, which end when the process that holds them ends, however that happens.

A file that a dead process left behind therefore locks nothing. `held` locks a file's name, to protect what lies in one
folder. `locked` lets only one measurement at a time run on a device of this machine.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of flock on a file system without locks, such as Lustre without its option `flock`."""
POLL_SECONDS = 0.2
"""Seconds between two attempts to take a lock that another process holds."""


@cache
def _warn(folder: Path) -> None:
    logging.getLogger("burnish").warning(
        (
            "the file system of %s has no locks: runs at the same time do the same work, and what dead runs have left "
            "there is not removed"
        ),
        folder,
    )


def lockable(folder: Path) -> bool:
    """Return whether files in a folder can be locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    finally:
        os.close(handle)
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is the one that now has the name `path`, rather than one that was removed."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def take(path: Path) -> int | None:
    """Lock the file `path`, which is made if it is missing.

    Returns
    -------
    int or None
        The open file, for `release`. None if another process holds the lock. On a file system without locks everybody
        gets the file, and a warning says so once.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno in NO_LOCKS:
                _warn(path.parent)
                return handle
            os.close(handle)
            raise
        # The last holder removed the file after it was opened here, so that this lock protects nothing.
        os.close(handle)


def release(handle: int, path: Path) -> None:
    """Give back a lock that `take` returned, and remove its file while it is still locked."""
    try:
        if _is_at(handle, path):
            path.unlink()
    finally:
        # The file system may have no locks.
        with suppress(OSError):
            # Closing the file is not enough, because a forked child may have the same open file.
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


@contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock on the file `path` while the block runs; the file is removed afterwards.

    `waiting` is called once if another process holds the lock.
    """
    handle = take(path)
    if handle is None and waiting is not None:
        waiting()
    while handle is None:
        time.sleep(POLL_SECONDS)
        handle = take(path)
    try:
        yield handle
    finally:
        release(handle, path)


@contextmanager
def locked(devices: Iterable[str], log: logging.Logger) -> Iterator[None]:
    """Hold the machine's devices while the block runs: no other process of any user measures on them."""
    with ExitStack() as stack:
        for device in sorted(devices):
            path = Path(tempfile.gettempdir()) / f"burnish-{device.replace(':', '-')}.lock"
            if not path.exists():
                path.touch(mode=0o644)
            # It is opened for reading, which suffices for a lock, because the file may be another user's.
            file = stack.enter_context(path.open("rb"))
            waiting = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        log.info("waiting: another benchmark runs on %s (%s)", device, path)
                    waiting = True
                    time.sleep(0.5)
        yield
