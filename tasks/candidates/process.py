"""The parent's end of a candidate: a model file in a runtime on a device, in its own fresh process
(tasks/candidates/worker.py).

They exchange JSON lines over the process's stdin and stdout; what libraries print goes to its log. The process ends
when its stdin does, so also when the parent is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.machine import children
from tasks.machine.space import DiskFull, watched
from tasks.measure import clock

if TYPE_CHECKING:
    from collections.abc import Iterable

# a candidate that has not answered for so long hangs
PATIENCE_SECONDS = 900
# of a limited visit
WARMUP_SHARE = 0.35
ENDED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a process from outside. Those of its own crash are others, as SIGSEGV and SIGABRT."""


class CandidateError(Exception):
    """What a candidate could not do, in one line."""


class Killed(CandidateError):
    """A candidate's process was ended from outside, which says nothing of the candidate: it may go well the next
    time."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images whose logits are asked for: JSON-able."""

    images: str
    """npy, uint8 (rows, height, width, channels)"""
    rows: str
    """npy, which of them"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a candidate is: JSON-able, the process's first message."""

    runtime: str
    path: str
    device: str
    threads: int
    """On a CPU, over all queries in flight."""
    slots: int = 1
    """Queries in flight: 1 for latency, more for throughput."""
    batch_sizes: tuple[int, ...]
    pool: str
    """npy, inputs that timing rotates through, one a row; at least as many as the largest batch size"""
    images: Images | None = None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a visit measures: JSON-able."""

    warmup_seconds: float
    min_seconds: float
    min_queries: int
    limit: float | None = None
    """Seconds that warm-up and measuring may take together; at its end it measures fewer queries."""

    @property
    def warmup_limit(self) -> float | None:
        """Seconds of `limit` that are warm-up's."""
        return None if self.limit is None else WARMUP_SHARE * self.limit

    @property
    def measure_limit(self) -> float | None:
        """Seconds of `limit` that are left for measuring."""
        return None if self.limit is None else (1 - WARMUP_SHARE) * self.limit

    @property
    def patience(self) -> float:
        """Seconds that the visit may rightly take."""
        return clock.PATIENCE * self.warmup_seconds + self.min_seconds + (self.limit or 0.0)


class Worker:
    """A candidate's process as its parent sees it."""

    def __init__(self, spec: Spec, log: Path) -> None:
        """Start the process and let it import its library and open its model; `receive` waits for that."""
        environment = children.environment(
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(spec.threads))
        )
        # NVML's order
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        # What compiles does so anew in each benchmark, and in its first round alone: later processes find it here.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(log.parent / "inductor")
        environment["TRITON_CACHE_DIR"] = str(log.parent / "triton")
        if spec.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._log, self._buffer, self._patience = log, b"", 0.0
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tasks.candidates.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.send("start", **asdict(spec))

    def warm_up(self, experiment: str, batch_size: int, effort: Effort, own: Iterable[int]) -> float:
        """Begin a visit: "latency" or "throughput" of a batch size. Returns a query's nanoseconds or queries a second.

        `own` are processes that are not foreign on the device: the other candidates, which sleep meanwhile.
        """
        self._patience = effort.patience
        self.send("warm_up", experiment=experiment, batch_size=batch_size, effort=asdict(effort), own=list(own))
        return float(self.receive(self._patience)["level"])

    def turn(self, turns: int) -> None:
        """Measure one of so many turns of the visit."""
        self.send("turn", turns=turns)
        self.receive(self._patience)

    def finish(self, out: Path) -> dict[str, Any]:
        """End the visit; its samples go to the npz file `out`."""
        self.send("finish", out=str(out))
        return self.receive(self._patience)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.send(command, **arguments)
        return self.receive()

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command: "start" (a Spec) or the name of a method of `tasks.candidates.worker.Opened`, with its
        arguments."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            # it died; `receive` says of what
            return

    def receive(self, expected: float = 0.0) -> dict[str, Any]:
        """The answer to the last command, which rightly takes `expected` seconds.

        Raises
        ------
        DiskFull
            If that is why the command failed.
        Killed
            If the process was ended from outside.
        CandidateError
            If the command failed (the process lives), or the process died or hangs (it does not: see `alive`).
        """
        assert self._process.stdout is not None
        patience = PATIENCE_SECONDS + expected
        end = time.monotonic() + patience
        while b"\n" not in self._buffer:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self.kill()
                raise CandidateError(f"no answer within {patience:.0f} s; {self._last_line()}")
            read = os.read(self._process.stdout.fileno(), 65536)
            if not read:
                with watched(self._log.parent):
                    raise self._death()
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise DiskFull(answer["error"]) if answer["full"] else CandidateError(answer["error"])
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _death(self) -> CandidateError:
        code = self._process.wait()
        if -code in ENDED:
            cause = ", as by the kernel where memory runs out" if -code == signal.SIGKILL else ""
            return Killed(f"killed by {signal.Signals(-code).name}{cause}; the same command measures it again")
        died = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return CandidateError(f"process {died}; {self._last_line()}")

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"its last words: {lines[-1].strip()}" if lines else "it wrote nothing"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
