"""Handle a standard output that is closed, full or a pipe without a reader, and a limit of too few open files.

That standard output cannot be written is no failure of the folder of artifacts, so it has an exception of its own.
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
"""Exit code of a command whose output nobody reads any more: what a shell shows for a program that SIGPIPE ended."""
LEAST_FILES = 64
"""Open files that a short study needs: it ends with a limit of 64, and fails with one of 40."""


class Unwritable(BaseException):
    """Standard output takes no more. This is no `Exception`, so no handler of a command's own failures catches it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.gone = error.errno == errno.EPIPE
        """Whether standard output is a pipe whose reader has ended, as after `| head -1`."""


class _Output(io.FileIO):
    """Standard output without a buffer; raises `Unwritable`."""

    def write(self, content: bytes) -> int:  # type: ignore[override]  # whatever has a buffer
        try:
            return super().write(content)
        except OSError as error:
            raise Unwritable(error) from error


class _Error(io.FileIO):
    """Standard error without a buffer. A failure to write is ignored, because there is nowhere else to report it."""

    def write(self, content: bytes) -> int:  # type: ignore[override]  # whatever has a buffer
        try:
            return super().write(content)
        except OSError:
            return len(content)


def guarded(work: Callable[[], int]) -> int:
    """Call `work` and return its exit code. Report in one line if standard output could not be written."""
    open_all()
    # Output is UTF-8 whatever the locale is, as in flows/__main__.py; file names in another encoding stay as they are.
    sys.stdout = _text(_Output(1, "w", closefd=False), "surrogateescape", line_buffering=os.isatty(1))
    sys.stderr = _text(_Error(2, "w", closefd=False), "backslashreplace", line_buffering=True)
    try:
        try:
            code = work()
        except SystemExit as end:
            # argparse ends the process so, after --help and after a user's mistake.
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    except Unwritable as error:
        # Python writes what is still in the buffer when it exits; that must not fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        if error.gone:
            return BROKEN_PIPE
        print(
            f"burnish: the standard output cannot be written ({error}), so that not all was shown; send it to a "
            "file or a program that takes it; files that the command has written are whole",
            file=sys.stderr,
        )
        return 1
    return code


def open_all() -> None:
    """Open standard input, output and error where they are closed.

    Otherwise a file that is opened later would get one of their numbers, and what libraries print would be written into
    it. As in gnulib's `stdopen`, a closed standard output is opened such that writing to it fails, as it would have.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The system gives out the lowest free number, which is this one.
            os.open(os.devnull, mode)
            os.set_inheritable(number, True)


def _text(raw: io.FileIO, errors: str, *, line_buffering: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, line_buffering=line_buffering)


def too_many_files(error: Exception) -> str:
    """Return what the user can do where a process may not open enough files; empty for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    return _few_files()


def refuse_few_files() -> None:
    """Raise this process's limit of open files to `LEAST_FILES`, as far as the system allows.

    Raises
    ------
    OSError
        If it does not allow as many. Below that, libraries fail in the midst of their work, some with a stack trace.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        raise OSError(errno.EMFILE, _few_files())
    resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES, hard))


def _few_files() -> str:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"a process may have {most} open files here (ulimit -n), which are too few; ulimit -n 1024 raises that, "
        "and the same command goes on where it stopped"
    )
