"""Locks of the kernel: they end with their holder however it ends, and no file that a dead process left behind holds
one.

`held` is a lock on a file's name, for what lies below one folder; `locked` keeps measurements of this machine apart.
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
"""What flock says on a file system without locks, as Lustre is without its option `flock`."""
POLL_SECONDS = 0.2
"""How often a lock that another process holds is asked for again; an interruption is noticed in between."""


@cache
def _warn(folder: Path) -> None:
    logging.getLogger("burnish").warning(
        (
            "the file system of %s has no locks: runs at the same time do the same work, and nothing of dead ones is "
            "removed"
        ),
        folder,
    )


def lockable(folder: Path) -> bool:
    """Whether files in a folder can be locked."""
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
    """Whether an open file is the one of that name, rather than one that has been removed."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def take(path: Path) -> int | None:
    """Lock the file `path`, which is made where it is missing.

    Returns
    -------
    int or None
        The open file, which `release` gives back; None where another holds the lock. On a file system without locks,
        which is said once, everybody gets one.
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
        # its last holder removed the file after it was opened here: another now has that name
        os.close(handle)


def release(handle: int, path: Path) -> None:
    """Give back a lock that `take` gave. The file is removed while it is locked, so that nobody locks a removed one."""
    try:
        if _is_at(handle, path):
            path.unlink()
    finally:
        # there are no locks
        with suppress(OSError):
            # also for a forked child, which has the same open file
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


@contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock on the file `path`, which is gone afterwards. `waiting` is called once if another process holds
    it."""
    told = waiting is None
    while (handle := take(path)) is None:
        if waiting is not None and not told:
            waiting()
        told = True
        time.sleep(POLL_SECONDS)
    try:
        yield handle
    finally:
        release(handle, path)


@contextmanager
def locked(devices: Iterable[str], log: logging.Logger) -> Iterator[None]:
    """Hold the machine's devices, across processes and users; the kernel lets go of a dead holder's lock."""
    with ExitStack() as stack:
        for device in sorted(devices):
            path = Path(tempfile.gettempdir()) / f"burnish-{device.replace(':', '-')}.lock"
            if not path.exists():
                path.touch(mode=0o644)
            # reading is enough to lock, and another user's file can be read
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
