"""Does one kind of work under burnish's supervisor. Arguments: the name of a function in `WORK`, and what it needs."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.terminal.supervisor import note, supervise


def sleep() -> None:
    time.sleep(600)


def note_and_sleep() -> None:
    """Note something, then what replaces it: the arguments after the first."""
    for text in sys.argv[2:]:
        note(text)
    print("noted", flush=True)
    time.sleep(600)


def sleep_and_print() -> None:
    """Print something more when an interruption ends the sleep."""
    try:
        time.sleep(600)
    finally:
        print("more", flush=True)


def call_into_a_library() -> None:
    """Stay in a call into C, during which Python handles no signal."""
    re.match("(a+)+$", "a" * 40 + "b")


def swallow_exceptions() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(60)


def wait_for_a_child_in_its_own_session() -> None:
    subprocess.run(["sleep", "600"], start_new_session=True, check=False)


def kill_itself() -> None:
    """End the working process with the signal whose number is the second argument."""
    os.kill(os.getpid(), int(sys.argv[2]))


def write_a_file_under_nohup() -> None:
    time.sleep(1)
    Path(sys.argv[2]).touch()


WORK = {
    function.__name__: function
    for function in (
        sleep,
        note_and_sleep,
        sleep_and_print,
        call_into_a_library,
        swallow_exceptions,
        wait_for_a_child_in_its_own_session,
        kill_itself,
        write_a_file_under_nohup,
    )
}


def work() -> int:
    print("at work", flush=True)
    WORK[sys.argv[1]]()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "write_a_file_under_nohup":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(supervise(work))
