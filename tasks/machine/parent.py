"""A process that ends when its parent does, however that ends: the kernel kills it then (Linux).

As a program it makes one of any command: ``python tasks/machine/parent.py PARENT_PID COMMAND ...``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# of prctl(2), from <linux/prctl.h>
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, ends.

    The kernel means the parent's thread that started this process: let one start it that lives as long as it is needed.
    """
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # it ended before the kernel was asked
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, in place of the machine's first process."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def command(*arguments: str) -> list[str]:
    """The command line that runs `arguments` as a process that ends with the one that calls this."""
    # needs no folder to be a package in
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    # what was asked of the kernel stays
    os.execvp(sys.argv[2], sys.argv[2:])
