"""A command leaves its memory to the kernel when it ends, and does everything else that Python does at exit."""

from __future__ import annotations

import subprocess

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
