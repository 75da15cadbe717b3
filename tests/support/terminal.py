"""Starts a command on a pseudo-terminal of its own, as its foreground process group, as a person does."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING

import psutil

from tests.support.paths import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


def in_foreground(command: Sequence[str]) -> list[str]:
    """Return a command that becomes this one, as the foreground process group of the terminal on its standard input."""
    return [sys.executable, "-I", "-S", str(PROGRAMS / "foreground.py"), *command]


class Terminal:
    """A command as a person starts it; what it shows is in `text`."""

    def __init__(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], columns: int = 120, rows: int = 30
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.text = ""

        self.process = subprocess.Popen(
            in_foreground(command),
            cwd=cwd,
            env=dict(environment) | {"COLUMNS": str(columns), "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.seen: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            try:
                read = os.read(self._master, 65536)
            except OSError:
                # the last process that had it open has ended
                return
            self.text += decoder.decode(read)

    def processes(self) -> list[psutil.Process]:
        """All processes of the command that were seen and live; those in sessions of their own too."""
        try:
            top = psutil.Process(self.process.pid)
            self.seen |= {process.pid: process for process in (top, *top.children(recursive=True))}
        except psutil.NoSuchProcess:
            pass
        return [p for p in self.seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        """Wait for a condition; fails if the command ends before, or time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.text[-3000:]}"
            assert time.monotonic() < deadline, f"after {seconds} s\n{self.text[-3000:]}"
            time.sleep(0.02)

    def ctrl_c(self) -> None:
        """What the key does: the terminal sends SIGINT to the whole foreground process group."""
        os.write(self._master, b"\x03")

    def signal(self, number: int) -> None:
        """To the process that was started."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """To its process group."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def alive_after(self, seconds: float = 0.0) -> list[psutil.Process]:
        """Processes that still live after so many seconds."""
        deadline = time.monotonic() + seconds
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive

    def close(self) -> None:
        """End what is left."""
        for process in self.processes():
            process.kill()
        self.process.wait()
        os.close(self._master)
