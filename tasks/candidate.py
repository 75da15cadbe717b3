"""One candidate of the benchmark (a variant in a runtime on a device) in its own fresh process.

`Candidate` is the parent's end; `python -m tasks.candidate` is the process. They exchange JSON lines over its stdin and
stdout; what libraries print goes to its log. The process ends when its stdin does, so also when the parent is killed.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tasks import machine, measure, runtimes
from tasks.pixels import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 900  # a candidate that has not answered for so long hangs
BATCHES = 4  # different batches that timing rotates through, at the largest batch size; more at smaller ones


class CandidateError(Exception):
    """What a candidate could not do, in one line."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a candidate is: JSON-able, the process's first message."""

    runtime: str
    path: str
    device: str
    threads: int
    batch_sizes: tuple[int, ...]
    evaluation_batch: int
    warmup_seconds: float
    min_seconds: float
    min_queries: int
    images: str
    """npy, uint8 (rows, height, width, channels)"""
    rows: str
    """npy, rows of the test images"""
    mean: tuple[float, ...]
    std: tuple[float, ...]


# ----------------------------------------------------------------------------------------------------- the parent's end


class Candidate:
    """A candidate's process as its parent sees it."""

    def __init__(self, spec: Spec, log: Path) -> None:
        """Start the process and let it import its library and open its model; `receive` waits for that."""
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(spec.threads)
        )
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's order
        if spec.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        root = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        self._log, self._buffer = log, b""
        # Seconds of a visit that the settings ask for come on top: warm-up lasts up to 4 times its least.
        self._patience = PATIENCE_SECONDS + measure.PATIENCE * spec.warmup_seconds + spec.min_seconds
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tasks.candidate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                bufsize=0, env=environment, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid
        self.send("start", **asdict(spec))

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.send(command, **arguments)
        return self.receive()

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command: "start" (a Spec), "measure" (batch_size, out) or "evaluate" (out)."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        except BrokenPipeError:  # it died; `receive` says of what
            return

    def receive(self) -> dict[str, Any]:
        """The answer to the last command.

        Raises
        ------
        CandidateError
            If the command failed (the process lives), or the process died or hangs (it does not: see `alive`).
        """
        assert self._process.stdout is not None
        end = time.monotonic() + self._patience
        while b"\n" not in self._buffer:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self.kill()
                raise CandidateError(f"no answer within {self._patience:.0f} s; {self._last_line()}")
            read = os.read(self._process.stdout.fileno(), 65536)
            if not read:
                raise CandidateError(f"process {self._death()}; {self._last_line()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise CandidateError(answer["error"])
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _death(self) -> str:
        code = self._process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

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


# ---------------------------------------------------------------------------------------------------------- the process


def _resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS (now) or VmHWM (the most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _reset_peak() -> None:
    """Make VmHWM start again from VmRSS."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"peak memory includes importing the library: {error}", file=sys.stderr)


def _busy_seconds() -> float:
    """CPU seconds used so far, by anything (other machines too), on the processors that this process may use."""
    import psutil

    times, own = psutil.cpu_times(percpu=True), machine.affinity()
    fields = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times[n], field, 0.0) for n in own if n < len(times) for field in fields)


class Opened:
    """The opened model in the process: test images in memory, the session, the peak of memory."""

    def __init__(self, **spec: Any) -> None:
        self.spec = Spec(**spec)
        runtime = runtimes.load(self.spec.runtime)
        runtime.load_library(self.spec.device)
        _busy_seconds()
        if self.spec.device != "cpu":
            machine.vram_bytes(os.getpid())  # its library is part of the baseline too
        # Timing's images are real ones, normalised beforehand. Few test images repeat.
        self.images, self.rows = np.load(self.spec.images, mmap_mode="r"), np.load(self.spec.rows)
        self.pool = self._inputs(np.resize(self.rows, BATCHES * max(self.spec.batch_sizes)))
        largest = max(*self.spec.batch_sizes, self.spec.evaluation_batch)
        self.baseline = _resident("VmRSS")
        _reset_peak()
        self.session = runtime.open(Path(self.spec.path), self.spec.device, largest, self.spec.threads)
        gc.collect()
        gc.freeze()  # with PyTorch imported a collection takes 0.4 s, and there is one before every measurement

    def _inputs(self, rows: np.ndarray) -> np.ndarray:
        return normalise(self.images[rows], self.spec.mean, self.spec.std)

    def start(self) -> dict[str, Any]:
        """The answer to "start"."""
        return {"provider": self.session.provider, "rss_baseline_bytes": self.baseline}

    def measure(self, batch_size: int, out: str) -> dict[str, Any]:
        """Warm up and time one batch size; int64 nanoseconds go to the npy file `out`."""
        size = len(self.pool) // batch_size * batch_size
        batches = cycle([self.pool[i : i + batch_size] for i in range(0, size, batch_size)])
        run, following = self.session.run, batches.__next__

        def query() -> None:
            run(following())

        before, own, start = _busy_seconds(), time.process_time(), time.monotonic()
        warmup_seconds, stable = measure.warm_up(query, self.spec.warmup_seconds)
        samples = measure.measure(query, self.spec.min_seconds, self.spec.min_queries)
        foreign = _busy_seconds() - before - (time.process_time() - own)
        np.save(out, samples)
        return {
            "warmup_seconds": warmup_seconds,
            "stable": stable,
            "foreign_cpu": max(0.0, foreign) / (time.monotonic() - start) / len(machine.affinity()),
            "rss_peak_bytes": max(_resident("VmHWM"), self.baseline),
            "vram_peak_bytes": None if self.spec.device == "cpu" else machine.vram_bytes(os.getpid()),
        }

    def evaluate(self, out: str) -> dict[str, Any]:
        """Logits of all test images, through the session that is timed, to the npy file `out`."""
        step = self.spec.evaluation_batch
        logits = [self.session.run(self._inputs(self.rows[i : i + step])) for i in range(0, len(self.rows), step)]
        np.save(out, np.concatenate(logits).astype(np.float32, copy=False))
        return {}


def _commands() -> Iterator[dict[str, Any]]:
    """Messages from the parent. The end of stdin ends the process, also in the middle of a command."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield messages.get()


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Answer commands until stdin ends; an exception is an answer too, a failed start is the last one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    opened: Opened | None = None
    for message in _commands():
        command = message.pop("command")
        try:
            if opened is None:
                opened = Opened(**message)
                _answer(answers, opened.start())
            else:
                _answer(answers, opened.measure(**message) if command == "measure" else opened.evaluate(**message))
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            _answer(answers, {"error": f"{type(error).__name__}: {first}"})
            if opened is None:
                sys.exit(1)


if __name__ == "__main__":
    main()
