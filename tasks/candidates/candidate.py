"""What a benchmark measures: candidates (a variant in a runtime on a device), and what their visits found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import machine
from tasks.candidates.process import CandidateError, Images, Killed, Spec, Worker
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.machine.certificate import FOREIGN_CPU, HURRIED
from tasks.measure import clock, intervals

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.records import Benchmark, Prepared, Variant


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
    """What the process said: see tasks/candidates/worker.py."""

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
        return clock.rate(self.samples)


@dataclass
class Candidate:
    """A candidate and what has been found out about it."""

    variant: Variant
    runtime: str
    device: str
    spec: Spec
    experiment: str = "latency"
    worker: Worker | None = None
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
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def fail(self, log: logging.Logger, error: CandidateError, batch_size: int | None = None) -> None:
        """Note an error: of one batch size where the process lives on, else of the whole candidate."""
        if batch_size is not None and self.worker is not None and self.worker.alive:
            self.errors[batch_size] = str(error)
        else:
            self.error = str(error)
            self.killed = isinstance(error, Killed)
            self.stop()
        log.warning("%s failed: %s", self.label, error)


def fresh_processes(settings: Benchmark) -> int:
    """Processes that a candidate's rounds are spread over."""
    return min(settings.processes or settings.rounds, settings.rounds)


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


# different batches that timing rotates through, at the largest batch size; more at smaller ones
BATCHES = 4
# queries in flight on a GPU: one computes while the other is copied
GPU_SLOTS = 2


def save_pool(work: Work, data: Prepared, batch_size: int, path: Path) -> None:
    """Write timing's inputs for batches of up to `batch_size`: real test images, normalised; few repeat."""
    arrays = load_arrays(work.store, data)
    rows = np.resize(arrays.rows_of("test"), BATCHES * batch_size)
    np.save(path, normalise(arrays.images[rows], data.mean, data.std))


def make_candidates(
    variant: Variant,
    runtime: str,
    device: str,
    path: Path,
    settings: Benchmark,
    pool: Path,
    images: Images | None = None,
) -> list[Candidate]:
    """A candidate an experiment; `pool` has the inputs that timing rotates through (npy)."""
    threads = settings.threads or machine.cores()
    spec = Spec(
        runtime=runtime,
        path=str(path),
        device=device,
        threads=threads,
        batch_sizes=settings.batch_sizes,
        pool=str(pool),
        images=images,
    )
    made = [Candidate(variant, runtime, device, spec)]
    if settings.throughput:
        slots = threads if device == "cpu" else GPU_SLOTS
        made.append(Candidate(variant, runtime, device, replace(spec, slots=slots, images=None), "throughput"))
    return made


def modules(settings: Benchmark, variants: tuple[Variant, ...]) -> tuple[str, ...]:
    """What candidates' processes reach by name: the worker, runtimes and model families."""
    import models

    # a label: name[-w<width>][-pretrained]
    names = [v.model.partition("-")[0] for v in variants]
    return (
        "tasks.candidates.worker",
        *(f"tasks.runtimes.{name}" for name in settings.runtimes),
        *dict.fromkeys(models.module(name) for name in names),
    )
