"""A terminal that is closed ends a command as Ctrl-C does, and what it has to say reaches whoever still reads it."""

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


def started(*work: str, log: Path | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """A command on a terminal of its own, at work; standard error goes to a file where one is given."""
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
    # the whole of it, or its writer gets an error
    while b"at work\r\n" not in text:
        text += os.read(master, 4096)
    return process, master


@pytest.mark.parametrize("redirected", [False, True])
def test_a_closed_terminal_ends_the_work_with_129_and_one_line(tmp_path: Path, redirected: bool) -> None:
    log = tmp_path / "log"
    # Its own last words, while the terminal is away, must not change how it ends.
    process, master = started("sleep_and_print", log=log if redirected else None)
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    # the kernel sends SIGHUP, and whoever writes to the terminal gets an error
    os.close(master)
    assert process.wait(20) == 128 + signal.SIGHUP
    assert len(everyone) == 2
    assert not any(one.is_running() for one in everyone)
    if redirected:
        assert log.read_text() == f"{INTERRUPTED}\n"


def test_under_nohup_the_work_goes_on(tmp_path: Path) -> None:
    process, master = started("write_a_file_under_nohup", str(tmp_path / "done"), log=tmp_path / "log")
    os.close(master)
    assert process.wait(20) == 0
    assert (tmp_path / "done").exists()
