"""A closed terminal ends a command as Ctrl-C does. Its last line is written where standard error is a file."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from flows.terminal.supervisor import INTERRUPTED
from tests.support import programs
from tests.support.terminal import in_foreground


def start(*work: str, log: Path | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command on a terminal of its own, and wait until it is at work.

    Standard error goes to `log` where that is given. Return the process and the other end of its terminal.
    """
    master, slave = pty.openpty()
    with (log or Path(os.devnull)).open("wb") as file:
        process = subprocess.Popen(
            in_foreground(programs.command("supervised", *work)),
            env=programs.environment(),
            stdin=slave,
            stdout=slave,
            stderr=file if log else slave,
        )
    os.close(slave)
    text = b""
    # All of the line is read, because otherwise the command gets an error when it writes the rest.
    while b"at work\r\n" not in text:
        text += os.read(master, 4096)
    return process, master


@pytest.mark.parametrize("redirected", [False, True])
def test_a_closed_terminal_ends_a_command_with_exit_code_129_and_one_line(tmp_path: Path, redirected: bool) -> None:
    log = tmp_path / "log"
    # What the work prints last, when the terminal is gone, must not change the exit code.
    process, master = start("sleep_and_print", log=log if redirected else None)
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    # The kernel sends SIGHUP, and a process that writes to the terminal gets an error.
    os.close(master)
    assert process.wait(20) == 128 + signal.SIGHUP
    assert len(processes) == 2
    assert not any(member.is_running() for member in processes)
    if redirected:
        assert log.read_text() == f"{INTERRUPTED}\n"


def test_a_command_under_nohup_continues_when_its_terminal_is_closed(tmp_path: Path) -> None:
    process, master = start("write_a_file_under_nohup", str(tmp_path / "done"), log=tmp_path / "log")
    os.close(master)
    assert process.wait(20) == 0
    assert (tmp_path / "done").exists()
