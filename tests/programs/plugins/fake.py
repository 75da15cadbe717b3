"""A fake runtime. The model's file says in JSON how long a query takes and what goes wrong.

Keys of the file, of which only `lock` is needed: `lock` (a file that is locked during a query), `ms` (duration of a
query), `classes`, `megabytes` (memory that the model takes), `fault` (open, segfault, hang, raise or nan) and
`from_batch` (the smallest batch size with the fault).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

FORMATS = ("fake",)


def unavailable(device: str) -> str | None:
    return None if device == "cpu" else f"{device}: not here"


def load_library(device: str) -> None:
    pass


class Session:
    """One slot of the model."""

    provider = "FakeProvider"
    split = None

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self.slots = slots
        self.spec = json.loads(path.read_text())
        self.lock = os.open(self.spec["lock"], os.O_RDWR | os.O_CREAT)
        self.ballast = np.ones(self.spec.get("megabytes", 0) << 17)
        if self.spec.get("fault") == "open":
            raise ValueError("cannot be opened\nsecond line")

    def run(self, inputs: np.ndarray) -> np.ndarray:
        # The lock is not available during another candidate's query, which fails this query.
        kind = fcntl.LOCK_EX if self.slots == 1 else fcntl.LOCK_SH
        fcntl.flock(self.lock, kind | fcntl.LOCK_NB)
        fault = self.spec.get("fault") if len(inputs) >= self.spec.get("from_batch", 1) else None
        if fault == "segfault":
            os.write(2, b"about to crash\n")
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(1000)
        time.sleep(self.spec.get("ms", 0.2) / 1000)
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        if fault == "raise":
            raise RuntimeError("out of memory")
        logits = np.zeros((len(inputs), 10), np.float32)
        logits[np.arange(len(inputs)), abs(inputs.sum((1, 2, 3))).astype(int) % self.spec.get("classes", 10)] = 1
        return logits * np.nan if fault == "nan" else logits

    def fork(self) -> Session:
        return Session(self.path, self.slots)

    def close(self) -> None:
        pass


def open(path: Path, device: str, batch_size: int, threads: int, slots: int) -> Session:
    return Session(path, slots)
