"""What a benchmark measures: candidates (a variant in one runtime on one device) and their visits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import machine, runtimes
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


# Conditions are bad where the figures of two rounds differ by more than this share: then the machine itself changed.
# Less than that is noise between rounds, which the interval of paired rounds includes.
SPREAD = 1.0
# Timing rotates through this many different batches at the largest batch size, and through more at smaller ones.
BATCHES = 4
# Queries in flight on a GPU, where throughput is measured: one computes while the other is copied.
GPU_SLOTS = 2
# What the log says of a candidate that fails: its label, and why.
FAILED = "%s failed: %s"


@dataclass
class Visit:
    """The measurement of one candidate at one batch size in one round."""

    samples: np.ndarray
    """int64, nanoseconds. Latency: how long each query took. Throughput: when each query completed, from the start."""
    turns: np.ndarray
    """int64: how many of the samples belong to each turn."""
    gpu: np.ndarray | None
    """float64, milliseconds, (queries, 4): host-to-device copy (H2D), enqueue, compute and device-to-host copy (D2H)
    of each query. None on a CPU, and for throughput."""
    process: int
    """Which of the candidate's processes was visited, counted from 1."""
    answer: dict[str, Any]
    """What the process reported at the end of the visit: see `finish` in tasks/candidates/worker.py."""

    @property
    def trouble(self) -> str | None:
        """What was bad about this visit by itself. None means nothing."""
        reasons = [] if self.answer["stable"] else ["warm-up windows did not agree"]
        foreign = self.answer["certificate"]["foreign_cpu"]
        if foreign > FOREIGN_CPU:
            reasons.append(f"other processes used {foreign:.0%} of the cores")
        if self.answer["certificate"]["gpu_trouble"]:
            reasons.append(self.answer["certificate"]["gpu_trouble"])
        return "; ".join(reasons) or None

    @property
    def turn_medians_ms(self) -> list[float]:
        """Median latency of each turn, in milliseconds. A throughput visit has none."""
        samples_of_turns = np.split(self.samples, np.cumsum(self.turns)[:-1])
        return [intervals.percentile(samples, 50) / 1e6 for samples in samples_of_turns]

    @property
    def queries_per_second(self) -> float:
        """Completed queries per second of a throughput visit."""
        return clock.rate(self.samples)


@dataclass(eq=False)
class Candidate:
    """A variant in one runtime on one device in one experiment, and what has been measured of it so far."""

    variant: Variant
    runtime: str
    device: str
    spec: Spec
    experiment: str = "latency"
    """"latency" (one query in flight) or "throughput" (`spec.slots` queries in flight)."""
    worker: Worker | None = None
    """The process that has the model open. None while none runs."""
    started: int = 0
    """How many processes were started for it so far."""
    error: str | None = None
    """Why it cannot be measured any further."""
    killed: bool = False
    """Whether `error` is that its process was ended from outside."""
    errors: dict[int, str] = field(default_factory=dict)
    """By batch size: why this batch size alone cannot be measured any further."""
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    """By batch size: its visits, one per round."""
    provider: str | None = None
    """Execution provider, or back end of the library, that really runs the model."""
    baseline: int = 0
    """Bytes of resident memory of its newest process before the model was opened."""
    open_seconds: float = 0.0
    """How long the slowest of its processes took to open the model."""
    logits: np.ndarray | None = None
    """float32 (images, classes): its outputs for all test images. None before the evaluation."""

    @property
    def columns(self) -> dict[str, object]:
        """The columns that name it in every table."""
        return {"variant": self.variant.name, "runtime": self.runtime, "device": self.device}

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.variant.name} · {self.runtime} · {self.device} · {self.experiment}"

    def stop(self) -> None:
        """End its process, if one runs."""
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def fail(self, log: logging.Logger, error: CandidateError, batch_size: int | None = None) -> None:
        """Record an error: of one batch size where its process still runs, else of the whole candidate."""
        if batch_size is not None and self.worker is not None and self.worker.alive:
            self.errors[batch_size] = str(error)
        else:
            self.error = str(error)
            self.killed = isinstance(error, Killed)
            self.stop()
        log.warning(FAILED, self.label, error)


def fresh_processes(settings: Benchmark) -> int:
    """Return how many processes the rounds of one candidate are spread over."""
    return min(settings.processes or settings.rounds, settings.rounds)


def conditions(visits: list[Visit], levels: list[float]) -> str | None:
    """Return what was bad about a candidate's visits at one batch size. None means nothing.

    `levels` has one figure per visit, its median latency or its rate: the rounds are compared by it.
    """
    reasons = []
    unstable = sum(not visit.answer["stable"] for visit in visits)
    hurried = 2 * sum(visit.answer.get("hurried", False) for visit in visits) > len(visits)
    why = f", {HURRIED}" if hurried else ""
    if 2 * unstable > len(visits):
        reasons.append(f"warm-up windows did not agree in {unstable} of {len(visits)} rounds{why}")
    if max(levels) > (1 + SPREAD) * min(levels):
        times = max(levels) / min(levels)
        difference = f"{times - 1:.0%}" if times < 10 else f"a factor of {times:.0f}"
        reasons.append(f"rounds differ by {difference}{why}")
    certificates = [visit.answer["certificate"] for visit in visits]
    foreign = float(np.mean([certificate["foreign_cpu"] for certificate in certificates]))
    if foreign > FOREIGN_CPU:
        reasons.append(f"other processes used {foreign:.0%} of the cores")
    reasons += sorted({certificate["gpu_trouble"] for certificate in certificates if certificate["gpu_trouble"]})
    return "; ".join(reasons) or None


def save_pool(work: Work, data: Prepared, batch_size: int, path: Path) -> None:
    """Write the inputs that timing rotates through, for batches of up to `batch_size` images.

    They are normalised images of the test split, each as often as it takes to fill the batches.
    """
    arrays = load_arrays(work.store, data)
    rows = np.resize(arrays.rows_of("test"), BATCHES * batch_size)
    np.save(path, normalise(arrays.images[rows], data.mean, data.std))


def make_candidates(
    variant: Variant,
    runtime: str,
    device: str,
    *,
    path: Path,
    settings: Benchmark,
    pool: Path,
    images: Images | None = None,
) -> list[Candidate]:
    """Return one candidate per experiment that the settings ask for: latency and, where wanted, throughput.

    Parameters
    ----------
    path : the model file
    pool : npy file with the inputs that timing rotates through
    images : the images to evaluate the candidate on; None: it is timed only
    """
    all_threads = settings.threads or machine.cores()
    threads = variant.threads or all_threads
    spec = Spec(
        runtime=runtime,
        path=str(path),
        device=device,
        threads=threads,
        options=variant.options,
        batch_sizes=settings.batch_sizes,
        pool=str(pool),
        images=images,
    )
    candidates = [Candidate(variant, runtime, device, spec)]
    if settings.throughput:
        slots = all_threads if device == "cpu" else GPU_SLOTS
        throughput_spec = replace(spec, threads=all_threads, slots=slots, images=None)
        candidates.append(Candidate(variant, runtime, device, throughput_spec, "throughput"))
    return candidates


def libraries(settings: Benchmark) -> tuple[str, ...]:
    """Return the distributions whose versions a measurement depends on: the usual ones, and the runtimes' own."""
    own = [library for name in settings.runtimes for library in getattr(runtimes.load(name), "LIBRARIES", ())]
    usual = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "numpy")
    return tuple(dict.fromkeys((*usual, *own)))


def modules(settings: Benchmark, variants: tuple[Variant, ...]) -> tuple[str, ...]:
    """Return the modules that workers import by name: the worker itself, the runtimes and the model families."""
    import models

    # A model that was given as a file is of no family here.
    given = {variant.model for variant in variants if variant.stage == "adopt"}
    # A label is name[-w<width>][-pretrained].
    names = [variant.model.partition("-")[0] for variant in variants if variant.model not in given]
    return (
        "tasks.candidates.worker",
        *(f"tasks.runtimes.{name}" for name in settings.runtimes),
        *dict.fromkeys(models.module(name) for name in names),
    )
