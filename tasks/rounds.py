"""Visits to the benchmark's candidates: fresh processes, in rounds, one at a time, on locked devices.

In every round all candidates are started, and each batch size is visited in turns: all warm up, then each measures for
a moment, again and again, in an order that rotates. So what disturbs the machine for a while disturbs all alike, and
the turns of two candidates are pairs. When memory does not hold all of them, they are visited in groups.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import gpu, intervals, machine, measure, metrics, resume
from tasks.budget import HURRIED, Budget
from tasks.candidate import WARMUP_SHARE, Candidate, CandidateError, Effort, Killed, Spec

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping

    from tasks.records import Benchmark, Variant
    from tasks.work import Work

# importing PyTorch takes seconds of a core
STARTED_AT_ONCE = 2
# a process's own memory with PyTorch imported (314 MB measured); the rest is shared
PROCESS_BYTES = 350_000_000
# of a process on a GPU: its CUDA context, kernels and workspaces (an estimate)
GPU_BYTES = 1_500_000_000
# conditions are bad above this share of the cores used by other processes
FOREIGN_CPU = 0.25
# of a visit, at most
TURNS = 20
# least
TURN_SECONDS = 0.05
# least, of the slowest candidate: each turn begins with a query that is not counted
TURN_QUERIES = 5
# Conditions are bad where round medians differ by more: the machine itself changed. Less than that is noise between
# rounds, which the interval of paired rounds carries.
SPREAD = 1.0


@dataclass
class Visit:
    """One round of a candidate at one batch size."""

    samples: np.ndarray
    """int64, nanoseconds: durations (latency) or completions since the start (throughput)"""
    turns: np.ndarray
    """int64: samples of each turn"""
    gpu: np.ndarray | None
    """float64 ms, (queries, 4): H2D, enqueue, compute, D2H"""
    process: int
    """Number of the process that was visited, from 1."""
    answer: dict[str, Any]
    """What the process said: see tasks/worker.py."""

    @property
    def trouble(self) -> str | None:
        """What was bad about it alone; None: nothing."""
        found = [] if self.answer["stable"] else ["warm-up windows did not agree"]
        foreign = self.answer["certificate"]["foreign_cpu"]
        if foreign > FOREIGN_CPU:
            found.append(f"other processes used {foreign:.0%} of the cores")
        if self.answer["certificate"]["gpu_trouble"]:
            found.append(self.answer["certificate"]["gpu_trouble"])
        return "; ".join(found) or None

    @property
    def turn_medians_ms(self) -> list[float]:
        """Of a latency visit."""
        parts = np.split(self.samples, np.cumsum(self.turns)[:-1])
        return [intervals.percentile(part, 50) / 1e6 for part in parts]

    @property
    def queries_per_second(self) -> float:
        """Of a throughput visit."""
        return measure.rate(self.samples)


@dataclass
class Job:
    """A candidate and what has been found out about it."""

    variant: Variant
    runtime: str
    device: str
    spec: Spec
    experiment: str = "latency"
    process: Candidate | None = None
    started: int = 0
    """Processes started so far."""
    error: str | None = None
    """What ended all of it."""
    killed: bool = False
    """Whether that was a signal from outside."""
    errors: dict[int, str] = field(default_factory=dict)
    """By batch size: what ended that one alone."""
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    provider: str | None = None
    baseline: int = 0
    open_seconds: float = 0.0
    """The longest of its processes'."""
    logits: np.ndarray | None = None

    @property
    def which(self) -> dict[str, object]:
        """Its columns in every table."""
        return {"variant": self.variant.name, "runtime": self.runtime, "device": self.device}

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.variant.name} · {self.runtime} · {self.device} · {self.experiment}"

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
            self.killed = isinstance(error, Killed)
            self.stop()
        log.warning("%s failed: %s", self.label, error)


def run(work: Work, jobs: list[Job], settings: Benchmark, folder: Path) -> None:
    """Visit all candidates in all rounds, then take their logits; no process is left, whatever happens.

    Rounds that are finished in `folder` are not repeated.
    """
    free: dict[str, int | None] = {"cpu": machine.memory_available()}
    free |= {job.device: gpu.free_bytes(job.device) for job in jobs if job.device != "cpu"}
    groups = _groups(jobs, {device: 0.8 * there for device, there in free.items() if there is not None})
    if len(groups) > 1:
        work.log.info(
            "memory does not hold all candidates at once: %d groups, started anew in every round", len(groups)
        )
    # ascending, for the peak of memory
    sizes = sorted(settings.batch_sizes)
    rounds, processes = settings.rounds, fresh_processes(settings)
    begun = _begun(work.log, jobs, settings, folder)
    done, visits = float(begun * len(jobs) * len(sizes)), rounds * len(jobs) * len(sizes)
    total = visits + sum(map(_is_evaluated, jobs))
    starts = [len(groups) > 1 or n * processes // rounds != (n - 1) * processes // rounds for n in range(rounds)]
    starts[begun] = True
    budget = Budget(work.log, settings.minutes, jobs, sizes, rounds - begun, len(jobs) * sum(starts[begun:]))
    effort = Effort(
        warmup_seconds=settings.warmup_seconds, min_seconds=settings.min_seconds, min_queries=settings.min_queries
    )

    def tell(text: str) -> None:
        work.progress(done, total, text)

    try:
        for number in range(begun, rounds):
            for group in groups:
                if starts[number]:
                    for job in group:
                        job.stop()
                    _start(work.log, [job for job in group if job.error is None], folder, budget, tell)
                first = number * len(group) // rounds
                order = group[first:] + group[:first]
                alone = [[job] for job in order if job.experiment != "latency"]
                together = [[job for job in order if job.experiment == "latency"], *alone]
                # This process too: training left it a context on the GPU, where it is no stranger.
                own = [os.getpid(), *(job.process.pid for job in group if job.process)]
                for size, visited in product(sizes, filter(None, together)):
                    where = f"round {number + 1} of {rounds}, batch {size}"
                    efforts = [replace(effort, limit=limit) for limit in budget.next(visited, size)]
                    for share, doing in _visit(work.log, visited, size, folder, efforts, own):
                        reached = done + share * len(visited)
                        work.progress(reached, total, f"{where} ({int(reached)} of {visits} visits): {doing}")
                    done += len(visited)
                for job in group:
                    if number == rounds - 1 and _is_evaluated(job):
                        _evaluate(work.log, job, folder, tell)
                        done += 1
                    if len(groups) > 1:
                        job.stop()
            resume.save(folder, number, jobs, settings)
        work.progress(total, total, f"{len(jobs)} candidates measured")
    finally:
        for job in jobs:
            job.stop()


def _begun(log: logging.Logger, jobs: list[Job], settings: Benchmark, folder: Path) -> int:
    """Rounds that need not be repeated; the last one is, as its processes are evaluated. What an interrupted run has
    compiled is removed: nothing tells whether it is whole.
    """
    for compiled in ("inductor", "triton"):
        shutil.rmtree(folder / compiled, ignore_errors=True)
    begun = min(resume.load(folder, jobs, settings, log), settings.rounds - 1)
    if begun:
        log.info("rounds finished before an interruption: %d", begun)
    for job in jobs:
        job.visits = {size: visits[:begun] for size, visits in job.visits.items()}
    return begun


def fresh_processes(settings: Benchmark) -> int:
    """Processes that a candidate's rounds are spread over."""
    return min(settings.processes or settings.rounds, settings.rounds)


def _groups(jobs: list[Job], memory: Mapping[str, float]) -> list[list[Job]]:
    """Candidates that fit together, in order, into the host's memory ("cpu") and a GPU's, where known; at least one a
    group.
    """
    groups: list[list[Job]] = []
    used: Counter[str] = Counter()
    for job in jobs:
        # Weights: in the file's cache, as read and as laid out for the kernels.
        weights = 3 * (job.variant.artifact.size_bytes if job.variant.artifact else 0)
        needs = Counter({"cpu": PROCESS_BYTES + weights})
        if job.device != "cpu":
            needs[job.device] = GPU_BYTES + weights
        if not groups or any(used[device] + size > memory.get(device, inf) for device, size in needs.items()):
            groups.append([])
            used = Counter()
        groups[-1].append(job)
        used += needs
    return groups


def _start(log: logging.Logger, jobs: list[Job], folder: Path, budget: Budget, tell: Callable[[str], None]) -> None:
    """Start processes, a few at a time: each imports its library and opens its model, then sleeps until it is
    visited."""

    def one(job: Job) -> None:
        job.started += 1
        job.process = Candidate(job.spec, folder / f"{job.label.replace('/', '-')}.log")
        try:
            answer = job.process.receive()
            job.provider, job.baseline = answer["provider"], answer["rss_baseline_bytes"]
            job.open_seconds = max(job.open_seconds, answer["open_seconds"])
        except CandidateError as error:
            job.fail(log, error)

    begin = time.monotonic()
    tell(f"opening {len(jobs)} candidate{'' if len(jobs) == 1 else 's'}")
    with ThreadPoolExecutor(STARTED_AT_ONCE) as pool:
        for number, _ in enumerate(pool.map(one, jobs), 1):
            tell(f"opened {number} of {len(jobs)} candidates, the last: {jobs[number - 1].label}")
    budget.started(len(jobs), time.monotonic() - begin)


def _visit(
    log: logging.Logger, jobs: list[Job], size: int, folder: Path, efforts: list[Effort], own: list[int]
) -> Iterator[tuple[float, str]]:
    """One round of one batch size: all warm up, then measure in turns; those that have failed are left out.

    Yields the share that is done, and what is done next. `own`: processes of all candidates.
    """

    @contextmanager
    def process(job: Job) -> Iterator[Candidate]:
        assert job.process is not None
        try:
            yield job.process
        except CandidateError as error:
            job.fail(log, error, size)

    def able(order: list[Job]) -> list[Job]:
        return [job for job in order if job.process is not None and size not in job.errors]

    turns = TURNS if jobs[0].experiment == "latency" else 1
    for number, job in enumerate(able(jobs)):
        yield WARMUP_SHARE * number / len(jobs), f"{job.label}, warming up"
        effort = efforts[jobs.index(job)]
        with process(job) as candidate:
            level = candidate.warm_up(job.experiment, size, effort, own)
            turns = min(turns, _turns(effort, level)) if turns > 1 else 1
    for turn in range(turns):
        what = jobs[0].label if len(jobs) == 1 else f"{len(jobs)} candidates in turns"
        yield WARMUP_SHARE + (1 - WARMUP_SHARE) * turn / turns, what
        first = turn % len(jobs)
        for job in able(jobs[first:] + jobs[:first]):
            with process(job) as candidate:
                candidate.turn(turns)
    out = folder / "visit.npz"
    for job in able(jobs):
        with process(job) as candidate:
            answer = candidate.finish(out)
            with np.load(out) as arrays:
                visit = Visit(arrays["samples"], arrays["turns"], arrays.get("gpu"), job.started, answer)
            job.visits.setdefault(size, []).append(visit)
            if job.device != "cpu" and answer["vram_peak_bytes"] is None and len(job.visits[size]) == 1:
                log.info(
                    "%s: GPU memory unknown: NVML is missing or does not list the process (as in a container without"
                    " --pid=host)",
                    job.label,
                )


def _turns(effort: Effort, query_ns: float) -> int:
    """Turns that a latency visit is worth, for a candidate whose query takes so long."""
    query = query_ns / 1e9
    seconds = max(effort.min_seconds, effort.min_queries * query)
    if effort.measure_limit is not None:
        seconds = min(seconds, effort.measure_limit)
    return max(1, min(TURNS, int(seconds / max(TURN_SECONDS, TURN_QUERIES * query))))


def _is_evaluated(job: Job) -> bool:
    """Whether a candidate takes the held-out images, when its rounds have ended."""
    return job.experiment == "latency" and job.spec.images is not None


def _evaluate(log: logging.Logger, job: Job, folder: Path, tell: Callable[[str], None]) -> None:
    if job.process is None:
        return
    tell(f"{job.variant.name} · {job.runtime} · {job.device}: all held-out images")
    out = folder / "logits.npy"
    try:
        job.process.ask("evaluate", out=str(out))
        logits = np.load(out)
        metrics.predictions(logits)
        job.logits = logits
    except Killed as error:
        job.fail(log, error)
    except (CandidateError, ValueError) as error:
        job.fail(log, CandidateError(f"evaluation: {error}"))


def conditions(visits: list[Visit], levels: list[float]) -> str | None:
    """What was bad about a candidate's visits at one batch size; None: nothing. `levels`: a figure a visit to be
    stable."""
    found = []
    unstable = sum(not visit.answer["stable"] for visit in visits)
    hurried = 2 * sum(visit.answer.get("hurried", False) for visit in visits) > len(visits)
    why = f", {HURRIED}" if hurried else ""
    if 2 * unstable > len(visits):
        found.append(f"warm-up windows did not agree in {unstable} of {len(visits)} rounds{why}")
    if max(levels) > (1 + SPREAD) * min(levels):
        times = max(levels) / min(levels)
        found.append(f"rounds differ by {f'{times - 1:.0%}' if times < 10 else f'a factor of {times:.0f}'}{why}")
    certificates = [visit.answer["certificate"] for visit in visits]
    foreign = float(np.mean([certificate["foreign_cpu"] for certificate in certificates]))
    if foreign > FOREIGN_CPU:
        found.append(f"other processes used {foreign:.0%} of the cores")
    found += sorted({certificate["gpu_trouble"] for certificate in certificates if certificate["gpu_trouble"]})
    return "; ".join(found) or None
