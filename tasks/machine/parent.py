"""A process that ends when its parent ends, because the kernel then kills it (Linux).

As a program this module runs any command as such a process: ``python tasks/machine/parent.py PARENT_PID COMMAND ...``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Options of prctl(2), from <linux/prctl.h>.
SET_PARENT_DEATH_SIGNAL = 1
SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process with the number `parent`, ends.

    The kernel watches the thread that started this process, not the whole parent. So this process must be started by a
    thread that lives as long as the process is needed.
    """
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # The parent may have ended before the kernel was asked to watch it.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, in place of the machine's first process."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def command(*arguments: str) -> list[str]:
    """Return the command line that runs `arguments` as a process that ends with the calling one."""
    # This file is run by its path, in isolated mode, so that it needs no import path.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    # The request to the kernel stays in force for the command.
    os.execvp(sys.argv[2], sys.argv[2:])
