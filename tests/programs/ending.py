"""Runs work in a supervised child process whose exit handler and last thread print a word each. It exits with 3."""

import atexit
import sys
import threading
import time

from flows.terminal.supervisor import supervise


def say() -> None:
    time.sleep(0.3)
    print("thread")


def work() -> int:
    atexit.register(print, "handler")
    threading.Thread(target=say).start()
    return 3


if __name__ == "__main__":
    sys.exit(supervise(work))
