"""The parent's end of a worker process, which has one candidate's model open (tasks/candidates/worker.py).

The two exchange lines of JSON over the process's stdin and stdout. What libraries print goes to the process's log. The
process ends when its stdin is closed, and so it also ends when the parent is killed.
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

# A worker that takes this many seconds longer than its command rightly may is taken to hang.
PATIENCE_SECONDS = 900
# Where a visit has a limit of time, warm-up gets this share of it.
WARMUP_SHARE = 0.35
ENDED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a process from outside. A process that crashes by itself ends with others: SIGSEGV, SIGABRT."""


class CandidateError(Exception):
    """A candidate could not do what it was told to. The message says why, in one line."""


class Killed(CandidateError):
    """A worker process was ended from outside. That says nothing of its candidate, which may go well the next time."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that a candidate is evaluated on. It can be written as JSON."""

    images: str
    """npy file: uint8 (rows, height, width, channels)."""
    rows: str
    """npy file: the numbers of the rows to classify."""
    mean: tuple[float, ...]
    """Mean for normalisation: one value per channel, or one value for all."""
    std: tuple[float, ...]
    """Standard deviation for normalisation, in the same form as `mean`."""
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a worker process opens. It can be written as JSON, and is the first message that the process gets."""

    runtime: str
    path: str
    """The model file."""
    device: str
    threads: int
    """Threads on a CPU, over all queries in flight."""
    options: tuple[str, ...] = ()
    """Options of the runtime, by the names in its file."""
    slots: int = 1
    """Queries in flight: 1 for latency, more for throughput."""
    batch_sizes: tuple[int, ...]
    pool: str
    """npy file: the inputs that timing rotates through, one per row."""
    images: Images | None = None
    """The images to evaluate on. None: the candidate is timed only."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a visit measures. It can be written as JSON."""

    warmup_seconds: float
    min_seconds: float
    min_queries: int
    limit: float | None = None
    """Seconds that warm-up and measuring may take together. A visit that reaches it measures fewer queries than
    `min_queries`. None means no limit."""

    @property
    def warmup_limit(self) -> float | None:
        """The seconds of `limit` that are for warm-up."""
        return None if self.limit is None else WARMUP_SHARE * self.limit

    @property
    def measure_limit(self) -> float | None:
        """The seconds of `limit` that are for measuring."""
        return None if self.limit is None else (1 - WARMUP_SHARE) * self.limit

    @property
    def patience(self) -> float:
        """The seconds that the visit may rightly take."""
        return clock.PATIENCE * self.warmup_seconds + self.min_seconds + (self.limit or 0.0)


class Worker:
    """A worker process as its parent sees it."""

    def __init__(self, spec: Spec, log: Path) -> None:
        """Start the process. It imports its library and opens its model; `receive` waits until that is done."""
        environment = children.environment(
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(spec.threads))
        )
        # CUDA then numbers the GPUs in the same order as NVML.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        # torch.compile compiles anew in each benchmark, and only in the first round: later processes find it here.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(log.parent / "inductor")
        environment["TRITON_CACHE_DIR"] = str(log.parent / "triton")
        if spec.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._log = log
        # What the process has written to stdout and `receive` has not returned yet.
        self._buffer = b""
        # The seconds that the current visit may rightly take.
        self._patience = 0.0
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

    def warm_up(self, experiment: str, batch_size: int, effort: Effort, known_pids: Iterable[int]) -> float:
        """Begin a visit with its warm-up.

        Parameters
        ----------
        experiment : "latency" or "throughput"
        known_pids : processes that are not foreign on the device: the other workers, which sleep meanwhile

        Returns
        -------
        level : nanoseconds per query (latency), or queries per second (throughput)
        """
        self._patience = effort.patience
        self.send(
            "warm_up",
            experiment=experiment,
            batch_size=batch_size,
            effort=asdict(effort),
            known_pids=list(known_pids),
        )
        return float(self.receive(self._patience)["level"])

    def turn(self, turns: int) -> None:
        """Measure for one turn of the visit, which has `turns` turns in all."""
        self.send("turn", turns=turns)
        self.receive(self._patience)

    def finish(self, out: Path) -> dict[str, Any]:
        """End the visit and return its answer. Its samples are written to the npz file `out`."""
        self.send("finish", out=str(out))
        return self.receive(self._patience)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, wait for its answer and return it."""
        self.send(command, **arguments)
        return self.receive()

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command with its arguments: "start" with a Spec's fields, or a method of the worker's `Opened`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            # The process has died; `receive` raises the reason.
            return

    def receive(self, expected: float = 0.0) -> dict[str, Any]:
        """Return the answer to the last command, which may rightly take `expected` seconds.

        Raises
        ------
        DiskFull
            If the command failed because a disk is full.
        Killed
            If the process was ended from outside.
        CandidateError
            If the command failed, or the process died or hangs. Only in the first case does it still run: see `alive`.
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
        """Wait for the end of the process and return it as an error."""
        code = self._process.wait()
        if -code in ENDED:
            cause = ", as by the kernel where memory runs out" if -code == signal.SIGKILL else ""
            return Killed(f"killed by {signal.Signals(-code).name}{cause}; the same command measures it again")
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return CandidateError(f"process {ending}; {self._last_line()}")

    def _last_line(self) -> str:
        """Return the last line of the process's log, in words."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"the last line of its log: {lines[-1].strip()}" if lines else "its log is empty"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
