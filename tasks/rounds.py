"""Visits to the benchmark's candidates: fresh processes, in rounds, one at a time, on locked devices.

All candidates are started first and then visited in an order that rotates with the round, so that drift hits all alike
and the rounds of two candidates are pairs. When memory does not hold all of them, they are visited in groups, which are
started anew in every round.
"""

from __future__ import annotations

import fcntl
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks import machine, metrics
from tasks.candidate import Candidate, CandidateError, Spec

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator

    from tasks.records import Benchmark, Variant
    from tasks.work import Work

STARTED_AT_ONCE = 2  # importing PyTorch takes seconds of a core
PROCESS_BYTES = 350_000_000  # a process's own memory with PyTorch imported (314 MB measured); the rest is shared
FOREIGN_CPU = 0.25  # conditions are bad above this share of the cores used by other processes
# Conditions are bad where round medians differ by more: the machine itself changed. Less than that is noise between rounds,
# which the interval of paired rounds carries.
SPREAD = 1.0


@dataclass
class Visit:
    """One round of a candidate at one batch size."""

    samples: np.ndarray
    """int64, nanoseconds"""
    warmup_seconds: float
    stable: bool
    """Whether warm-up windows agreed in the end."""
    foreign_cpu: float
    """Share of the cores that other processes used meanwhile."""
    gpu_trouble: str | None


@dataclass
class Job:
    """A candidate and what has been found out about it."""

    variant: Variant
    runtime: str
    device: str
    spec: Spec
    name: str
    """Of its files."""
    process: Candidate | None = None
    error: str | None = None
    """What ended all of it."""
    errors: dict[int, str] = field(default_factory=dict)
    """By batch size: what ended that one alone."""
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    memory: dict[int, dict[str, int | None]] = field(default_factory=dict)
    provider: str | None = None
    baseline: int = 0
    logits: np.ndarray | None = None

    @property
    def which(self) -> dict[str, object]:
        """Its columns in every table."""
        return {"variant": self.variant.name, "runtime": self.runtime, "device": self.device}

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.variant.name} · {self.runtime} · {self.device}"

    def stop(self) -> None:
        """End its process."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def fail(self, log: logging.Logger, error: CandidateError, batch_size: int | None = None) -> None:
        """Note an error: of one batch size where the process lives on, else of the whole candidate."""
        if batch_size is not None and self.process is not None and self.process.alive:
            self.errors[batch_size] = str(error)
        else:
            self.error = str(error)
            self.stop()
        log.warning("%s failed: %s", self.label, error)


@contextmanager
def locked(devices: Iterable[str], log: logging.Logger) -> Iterator[None]:
    """Hold the machine's devices, across processes; the kernel lets go of a dead holder's lock."""
    with ExitStack() as held:
        for device in sorted(devices):
            path = Path(tempfile.gettempdir()) / f"burnish-{device.replace(':', '-')}.lock"
            if not path.exists():
                path.touch(mode=0o644)
            file = held.enter_context(path.open("rb"))  # reading is enough to lock, and another user's file can be read
            waiting = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        log.info("waiting: another benchmark runs on %s (%s)", device, path)
                    waiting = True
                    time.sleep(0.5)
        yield


def run(work: Work, jobs: list[Job], settings: Benchmark, folder: Path) -> None:
    """Visit all candidates in all rounds, then take their logits; no process is left, whatever happens."""
    groups = _groups(jobs, int(0.8 * machine.memory_available()))
    if len(groups) > 1:
        work.log.info("memory does not hold %d candidates at once: %d groups in every round", len(jobs), len(groups))
    sizes = sorted(settings.batch_sizes)  # ascending, for the peak of memory
    done, total = 0, settings.rounds * len(jobs) * len(sizes)
    try:
        for number in range(settings.rounds):
            for group in groups:
                _start(work.log, [job for job in group if job.process is None and job.error is None], folder)
                first = number * len(group) // settings.rounds
                for size in sizes:
                    for job in group[first:] + group[:first]:
                        work.progress(done, total, f"round {number + 1}: {job.label} · batch {size}")
                        done += 1
                        if job.process is not None and size not in job.errors:
                            _visit(work.log, job, size, folder, {j.process.pid for j in group if j.process})
                for job in group if number == settings.rounds - 1 else ():
                    _evaluate(work.log, job, folder)
                for job in group if len(groups) > 1 else ():
                    job.stop()
        work.progress(total, total, f"{len(jobs)} candidates measured")
    finally:
        for job in jobs:
            job.stop()


def _groups(jobs: list[Job], memory: int) -> list[list[Job]]:
    """Candidates that fit into memory together, in order; at least one a group."""
    groups: list[list[Job]] = []
    used = 0
    for job in jobs:
        # Weights: in the file's cache, as read and as laid out for the kernels.
        size = PROCESS_BYTES + 3 * (job.variant.artifact.size_bytes if job.variant.artifact else 0)
        if not groups or used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(job)
        used += size
    return groups


def _start(log: logging.Logger, jobs: list[Job], folder: Path) -> None:
    """Start processes, a few at a time: each imports its library and opens its model, then sleeps until it is visited."""

    def one(job: Job) -> None:
        job.process = Candidate(job.spec, folder / f"{job.name}.log")
        try:
            answer = job.process.receive()
            job.provider, job.baseline = answer["provider"], answer["rss_baseline_bytes"]
        except CandidateError as error:
            job.fail(log, error)

    with ThreadPoolExecutor(STARTED_AT_ONCE) as pool:
        list(pool.map(one, jobs))


def _visit(log: logging.Logger, job: Job, size: int, folder: Path, pids: set[int]) -> None:
    """One round of one batch size; memory is that of the first round, in which sizes ascend in a fresh process."""
    assert job.process is not None
    out = folder / f"{job.name}.npy"
    try:
        answer = job.process.ask("measure", batch_size=size, out=str(out))
    except CandidateError as error:
        job.fail(log, error, size)
        return
    trouble = machine.gpu_trouble(job.device, pids)
    visit = Visit(np.load(out), answer["warmup_seconds"], answer["stable"], answer["foreign_cpu"], trouble)
    job.visits.setdefault(size, []).append(visit)
    if job.device != "cpu" and answer["vram_peak_bytes"] is None and size not in job.memory:
        log.info("%s: GPU memory unknown: NVML is missing or does not list the process (as in a container)", job.label)
    job.memory.setdefault(size, {key: answer[key] for key in ("rss_peak_bytes", "vram_peak_bytes")})


def _evaluate(log: logging.Logger, job: Job, folder: Path) -> None:
    if job.process is None:
        return
    out = folder / f"{job.name}.npy"
    try:
        job.process.ask("evaluate", out=str(out))
        logits = np.load(out)
        metrics.predictions(logits)
        job.logits = logits
    except (CandidateError, ValueError) as error:
        job.fail(log, CandidateError(f"evaluation: {error}"))


def conditions(visits: list[Visit]) -> str | None:
    """What was bad about a candidate's visits at one batch size; None: nothing."""
    found = []
    unstable = sum(not visit.stable for visit in visits)
    if 2 * unstable > len(visits):
        found.append(f"warm-up windows did not agree in {unstable} of {len(visits)} rounds")
    medians = [float(np.median(visit.samples)) for visit in visits]
    if max(medians) > (1 + SPREAD) * min(medians):
        found.append(f"round medians differ by {max(medians) / min(medians) - 1:.0%}")
    foreign = float(np.mean([visit.foreign_cpu for visit in visits]))
    if foreign > FOREIGN_CPU:
        found.append(f"other processes used {foreign:.0%} of the cores")
    found += sorted({visit.gpu_trouble for visit in visits if visit.gpu_trouble})
    return "; ".join(found) or None
