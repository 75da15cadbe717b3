"""Standard output, error and open files as a command meets them: closed, full, a pipe without a reader, or too few.

What cannot be written there is no failure of a disk that burnish was told to write to, so it has an exception of its
own.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BROKEN_PIPE = 141
"""Exit code of a command whose reader has gone, as a shell shows it for one that SIGPIPE ended."""


class Unwritable(BaseException):
    """Standard output does not take what a command says. No handler of a command's own failures is to take it for
    one."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.gone = error.errno == errno.EPIPE
        """Whether it is a pipe whose reader has ended, as after `| head -1`."""


class _Output(io.FileIO):
    """Standard output, past Python's buffer."""

    def write(self, content: bytes) -> int:  # type: ignore[override]  # whatever has a buffer
        try:
            return super().write(content)
        except OSError as error:
            raise Unwritable(error) from error


class _Error(io.FileIO):
    """Standard error, past Python's buffer. Where it takes nothing there is nobody to be told that."""

    def write(self, content: bytes) -> int:  # type: ignore[override]  # whatever has a buffer
        try:
            return super().write(content)
        except OSError:
            return len(content)


def guarded(work: Callable[[], int]) -> int:
    """Do `work`, and say in one line on standard error where standard output did not take all. Returns the exit
    code."""
    open_all()
    # UTF-8 whatever the locale is, as flows/__main__.py sees to; names of files that are not go out as they are.
    sys.stdout = _text(_Output(1, "w", closefd=False), "surrogateescape", line_buffering=os.isatty(1))
    sys.stderr = _text(_Error(2, "w", closefd=False), "backslashreplace", line_buffering=True)
    try:
        try:
            code = work()
        except SystemExit as end:
            # of argparse, after --help and mistakes
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    except Unwritable as error:
        # for what is still in the buffer, which is written at the end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        if error.gone:
            return BROKEN_PIPE
        print(
            f"burnish: the standard output cannot be written ({error}), so that not all was shown; send it to a "
            "file or "
            "a program that takes it; files that the command has written are whole",
            file=sys.stderr,
        )
        return 1
    return code


def open_all() -> None:
    """Have something open as standard input, output and error, so that no file that is opened later takes their place.

    What libraries print would be written into that file. As in gnulib's `stdopen`, a closed standard output is opened
    so that writing to it fails, as it would have failed.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free: this one
            os.open(os.devnull, mode)
            os.set_inheritable(number, True)


def _text(raw: io.FileIO, errors: str, *, line_buffering: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, line_buffering=line_buffering)


def too_many_files(error: Exception) -> str:
    """What to do where a process may not open as many files as burnish needs; empty for another error."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"a process may have {most} open files here (ulimit -n), which are too few; ulimit -n 1024 raises that, "
        "and the "
        "same command goes on where it stopped"
    )
