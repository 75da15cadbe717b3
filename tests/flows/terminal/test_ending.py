"""How a command ends: it leaves its memory to the kernel, and says what there is so far where a signal ends it."""

from __future__ import annotations

import signal
import subprocess

import pytest

from flows.terminal.supervisor import INTERRUPTED
from tests.support import programs


def test_threads_end_and_exit_handlers_run_before_a_command_ends() -> None:
    done = subprocess.run(
        programs.command("ending"),
        env=programs.environment(),
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (3, ["thread", "handler"], "")


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        ((), ""),
        (("one form", "a faster form: ½ ms"), "burnish: a faster form: ½ ms\n"),
        (("a faster form", ""), ""),
        (("x" * 4094 + "ö",), f"burnish: {'x' * 4094}\n"),
    ],
    ids=["nothing", "the last note", "taken back", "cut between letters"],
)
def test_a_command_that_a_signal_ends_says_what_its_work_has_noted_last(noted: tuple[str, ...], said: str) -> None:
    process = subprocess.Popen(
        programs.command("supervised", "note_and_sleep", *noted),
        env=programs.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["at work\n", "noted\n"]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, f"{said}{INTERRUPTED}\n")
