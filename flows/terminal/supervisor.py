"""Run a command's work in a child process, so that the process which the user started answers a signal at once.

The child is interrupted by SIGINT, and may close what it has open. If it has not ended after a moment (a long call into
a library keeps Python from seeing a signal), it is killed, with all processes that it started. That is safe, because
files appear whole or not at all. A child that something else kills is reported in one line.

Only the standard library is imported here, so that Ctrl-C never shows a traceback.
"""

from __future__ import annotations

import atexit
import mmap
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from tasks.machine.parent import adopt_orphans, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED = "burnish: interrupted; the same command goes on where it stopped"
# The time that the work has to end by itself after a signal. With what follows, a command ends within three seconds.
GRACE_SECONDS = 1.5
# The longest wait until killed processes are gone; the kernel needs milliseconds.
SWEEP_SECONDS = 1.0
hurried = False
"""Whether this process ends without waiting for anything once its work is done (see `hurry`)."""
_noted = mmap.mmap(-1, 4096)
"""Memory that the work shares with its parent: what `note` was told last, as UTF-8 up to the first zero."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command. SIGHUP means that its terminal was closed."""
CAUSES = {
    signal.SIGKILL: "as the kernel does when memory runs out",
    signal.SIGBUS: "as happens when a disk is full or a file is cut while it is read",
}


def supervise(work: Callable[[], int]) -> int:
    """Call `work` in a child process and return its exit code, or 128 + the number of the signal that ended it."""
    awaited = {*ENDING, signal.SIGTSTP, signal.SIGCHLD}
    for number in (signal.SIGINT, signal.SIGHUP):
        # Whoever started this process had it ignore the signal: a shell script in the background, or nohup.
        if signal.getsignal(number) == signal.SIG_IGN:
            awaited.remove(number)
    adopt_orphans()
    supervisor = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        # In a session of its own, the child gets none of the terminal's signals, nor one to the parent's process group.
        os.setsid()
        end_with_parent(supervisor)
        signal.signal(signal.SIGINT, _interrupt)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = work()
        _end_now(code) if hurried else _end(code)
    status, ending_signal = _wait(child, awaited)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        _sweep()
    if ending_signal is not None and code != 0:
        # A progress bar may still be open: then the cursor is hidden, and the line has not ended.
        _say(f"\x1b[?25h\n{farewell()}" if sys.stderr.isatty() else farewell())
        return 128 + ending_signal
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
    """Write a line to standard error without a buffer.

    Where the terminal is gone, a line that stays in Python's buffer would change the exit code.
    """
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def note(text: str) -> None:
    """Have a command say what there is so far, in one line, if a signal ends it from now on. Empty: nothing."""
    content = text.encode()[: len(_noted) - 1].decode(errors="ignore").encode()
    _noted[: len(content) + 1] = content + b"\0"


def farewell() -> str:
    """Return what a command says when a signal ends it. Only `burnish ui` has no work that could go on."""
    if sys.argv[1:2] == ["ui"]:
        return "burnish: ended"
    noted = _noted[:].partition(b"\0")[0].decode()
    return f"burnish: {noted}\n{INTERRUPTED}" if noted else INTERRUPTED


def hurry(yes: bool = True) -> None:
    """Choose whether this process, once its work is done, ends without the exit handlers of Python and libraries.

    Such a handler may wait for a server that is gone. `burnish` hurries when it is interrupted or the server is gone.
    """
    global hurried  # noqa: PLW0603
    hurried = yes


def _end(code: int) -> NoReturn:
    """End this process as Python would, but leave what is in memory to the kernel.

    With PyTorch and Prefect imported, Python takes two seconds of processor time to take its objects apart.
    """
    # A second signal means that nothing is to be waited for any more.
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    _end_now(code)


def _end_now(code: int) -> NoReturn:
    # Standard output or error may be closed already.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, frame: object) -> None:
    """End the work with an exception, and hide what it prints while it ends. The parent prints the one line."""
    hurry()
    if not os.environ.get("BURNISH_TRACEBACK"):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _wait(child: int, awaited: set[signal.Signals]) -> tuple[int, int | None]:
    """Pass signals on to the child until it has ended.

    Returns
    -------
    tuple
        The child's wait status, and the first signal that was to end it, or None.
    """
    ending_signal: int | None = None
    deadline: float | None = None
    while True:
        for pid, status in _ended():
            if pid == child:
                return status, ending_signal
        number = _next_signal(awaited, deadline)
        if number in ENDING and ending_signal is None:
            ending_signal = number
            deadline = time.monotonic() + GRACE_SECONDS
            os.kill(child, signal.SIGINT)
        elif number is None or number in ENDING:
            # The child did not end in time, or the user asks a second time.
            os.kill(child, signal.SIGKILL)
            deadline = None
        elif number == signal.SIGTSTP:
            # Ctrl-Z: both processes stop, and both go on when the shell continues this one.
            os.kill(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)


def _next_signal(awaited: set[signal.Signals], deadline: float | None) -> int | None:
    """Wait for the next signal and return its number; None when the deadline has passed."""
    if deadline is None:
        return signal.sigwait(awaited)
    received: Any = signal.sigtimedwait(awaited, max(0.0, deadline - time.monotonic()))
    return None if received is None else int(received.si_signo)


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the process id and the wait status of each child and adopted orphan that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _sweep() -> None:
    """Kill all processes that the work has started and not ended, also those in sessions of their own."""
    import psutil

    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        remaining = psutil.Process().children(recursive=True)
        if not remaining:
            return
        for process in remaining:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        list(_ended())
        time.sleep(0.01)
