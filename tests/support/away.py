"""Starts a run for tests in which Prefect's server goes away, and notes when the run writes which line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.command import SHORT, last_values
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

NOTICE_SECONDS = 60.0
"""A run must say within this many seconds that its server has gone away."""
SETTINGS = last_values(*SHORT, "train.epochs=60", "train.patience=60")
"""Settings with which a run is still training when its server goes away."""


class Run:
    """A run without a terminal.

    `lines` holds what it has written to standard error, each line with the monotonic time at which it was read.
    """

    def __init__(self, out: Path, environment: dict[str, str], settings: tuple[str, ...] = SETTINGS) -> None:
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(out), *(f"--set={s}" for s in settings)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, condition: Callable[[], Any], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.text[-3000:]
            assert time.monotonic() < deadline, self.text[-3000:]
            time.sleep(0.1)

    def time_of(self, words: str) -> float | None:
        """Return the monotonic time of the first line with these words, or None where there is no such line."""
        return next((seconds for seconds, line in self.lines if words in line), None)

    def end(self) -> int:
        """Wait for the end of the run and return its exit code."""
        code = self.process.wait(400)
        self._reader.join(10)
        return code
