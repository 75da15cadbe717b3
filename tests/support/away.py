"""Starts a run whose Prefect server goes away, and notes when it says what."""

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
"""Most seconds until a run says that its server has gone away."""
STUDY = last_values(*SHORT, "train.epochs=60", "train.patience=60")


class Run:
    """A run of the study without a terminal; lines that it writes, each with the time since the start."""

    def __init__(self, out: Path, environment: dict[str, str]) -> None:
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(out), *(f"--set={s}" for s in STUDY)],
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
        """When it was said."""
        return next((at for at, line in self.lines if words in line), None)

    def end(self) -> int:
        code = self.process.wait(400)
        self._reader.join(10)
        return code
