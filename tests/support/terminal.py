"""Starts a command as a person does: on a pseudo-terminal, whose foreground process group it is."""

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
    """A command on a pseudo-terminal of its own. `text` holds everything that it has shown."""

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
        self.known_processes: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            try:
                content = os.read(self._master, 65536)
            except OSError:
                # The last process that had the terminal open has ended.
                return
            self.text += decoder.decode(content)

    def processes(self) -> list[psutil.Process]:
        """Return the command's living processes, including those in sessions of their own.

        A process that has lost its parent is returned if an earlier call saw it.
        """
        try:
            top = psutil.Process(self.process.pid)
            self.known_processes |= {process.pid: process for process in (top, *top.children(recursive=True))}
        except psutil.NoSuchProcess:
            pass
        return [p for p in self.known_processes.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        """Wait until a condition holds. Fail if the command ends before that or the time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.text[-3000:]}"
            assert time.monotonic() < deadline, f"after {seconds} s\n{self.text[-3000:]}"
            time.sleep(0.02)

    def ctrl_c(self) -> None:
        """Press Ctrl-C, at which the terminal sends SIGINT to the whole foreground process group."""
        os.write(self._master, b"\x03")

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group of the process that was started."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the command's end and return its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def alive_after(self, seconds: float = 0.0) -> list[psutil.Process]:
        """Wait up to `seconds` for the end of all processes, and return those that are still alive."""
        deadline = time.monotonic() + seconds
        alive = self.processes()
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = self.processes()
        return alive

    def close(self) -> None:
        """Kill all processes of the command that are alive, and close the terminal."""
        for process in self.processes():
            process.kill()
        self.process.wait()
        os.close(self._master)
