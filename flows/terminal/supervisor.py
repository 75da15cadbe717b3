"""The process that a person starts: it does no work, so that it answers a signal at once, whatever the work is busy
with.

The work is done in a child process. It is interrupted by SIGINT and may close what it has open; what has not ended
after a moment (a long call into a library keeps Python from seeing a signal) is killed, with all processes that it
started. That is safe, since files appear whole or not at all. A child that is killed by something else is one line,
too.

Only the standard library is imported here, so that there is no moment at which Ctrl-C is a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from tasks.machine.parent import adopt_orphans, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED = "burnish: interrupted; the same command goes on where it stopped"
# for the work to end by itself: with what follows it stays under three seconds
GRACE_SECONDS = 1.5
# until killed processes have gone; the kernel needs milliseconds
SWEEP_SECONDS = 1.0
hurried = False
"""Whether nothing is waited for when this process's work is done: it was told to end, or Prefect's server is gone."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The last: the terminal was closed."""
CAUSES = {
    signal.SIGKILL: "as the kernel does when memory runs out",
    signal.SIGBUS: "as happens when a disk is full or a file is cut while it is read",
}


def supervise(work: Callable[[], int]) -> int:
    """Do `work` in a child process. Returns its exit code; 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP."""
    waited = {*ENDING, signal.SIGTSTP, signal.SIGCHLD}
    for number in (signal.SIGINT, signal.SIGHUP):
        # it is not meant for a script's background job, or under nohup
        if signal.getsignal(number) == signal.SIG_IGN:
            waited.remove(number)
    adopt_orphans()
    front = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child = os.fork()
    if child == 0:
        # the terminal's signals come to the parent alone, and so does a signal to the process group
        os.setsid()
        end_with_parent(front)
        signal.signal(signal.SIGINT, _interrupt)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = work()
        if hurried:
            _end_now(code)
        raise SystemExit(code)
    status, asked = _wait(child, waited)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        _sweep()
    if asked is not None and code != 0:
        # A progress bar was not closed: it hides the cursor, and has no line's end.
        _say(f"\x1b[?25h\n{farewell()}" if sys.stderr.isatty() else farewell())
        return 128 + asked
    if code < 0:
        number = signal.Signals(-code)
        cause = f" ({CAUSES[number]})" if number in CAUSES else ""
        _say(
            f"burnish: failed: the process at work was ended by {number.name}{cause}; the same command goes on where "
            "it stopped"
        )
        return 1
    return code


def _say(text: str) -> None:
    """A line to standard error, past Python's buffer: where the terminal is gone, what stays in it changes the exit
    code."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def farewell() -> str:
    """What a command says when a signal ends it: of Prefect's pages nothing goes on."""
    return "burnish: ended" if sys.argv[1:2] == ["ui"] else INTERRUPTED


def hurry(yes: bool = True) -> None:
    """End without what Python and libraries do at a process's end, such as sending to a server what is left to send."""
    global hurried  # noqa: PLW0603
    hurried = yes


def _end_now(code: int) -> NoReturn:
    # nobody reads them any more
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, frame: object) -> None:
    """End the work by an exception. What is said while it ends is not for the user: one line is, and the parent has
    it."""
    hurry()
    if not os.environ.get("BURNISH_TRACEBACK"):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _wait(child: int, waited: set[signal.Signals]) -> tuple[int, int | None]:
    """Pass signals on until the child has ended: (its status, the signal that was to end it)."""
    asked: int | None = None
    deadline: float | None = None
    while True:
        for pid, status in _ended():
            if pid == child:
                return status, asked
        number = _next_signal(waited, deadline)
        if number in ENDING and asked is None:
            asked = number
            deadline = time.monotonic() + GRACE_SECONDS
            os.kill(child, signal.SIGINT)
        elif number is None or number in ENDING:
            # it did not end in time, or is asked a second time
            os.kill(child, signal.SIGKILL)
            deadline = None
        elif number == signal.SIGTSTP:
            # Ctrl-Z
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)


def _next_signal(waited: set[signal.Signals], deadline: float | None) -> int | None:
    """The next signal; None when the deadline has passed."""
    if deadline is None:
        return signal.sigwait(waited)
    found: Any = signal.sigtimedwait(waited, max(0.0, deadline - time.monotonic()))
    return None if found is None else int(found.si_signo)


def _ended() -> Iterator[tuple[int, int]]:
    """(Process, status) of the child and of adopted orphans that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _sweep() -> None:
    """Kill all processes that the work has started and left; those in sessions of their own too."""
    import psutil

    deadline = time.monotonic() + SWEEP_SECONDS
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        list(_ended())
        time.sleep(0.01)
