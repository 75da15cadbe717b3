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
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks import machine
from tasks.candidates import resume
from tasks.candidates.budget import Budget
from tasks.candidates.candidate import Candidate, Visit, fresh_processes
from tasks.candidates.process import WARMUP_SHARE, CandidateError, Effort, Killed, Worker
from tasks.machine import gpu
from tasks.measure import metrics

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping

    from tasks.caching.work import Work
    from tasks.records import Benchmark

# importing PyTorch takes seconds of a core
STARTED_AT_ONCE = 2
# a process's own memory with PyTorch imported (314 MB measured); the rest is shared
PROCESS_BYTES = 350_000_000
# of a process on a GPU: its CUDA context, kernels and workspaces (an estimate)
GPU_BYTES = 1_500_000_000
# of a visit, at most
TURNS = 20
# least
TURN_SECONDS = 0.05
# least, of the slowest candidate: each turn begins with a query that is not counted
TURN_QUERIES = 5


def run(work: Work, candidates: list[Candidate], settings: Benchmark, folder: Path) -> None:
    """Visit all candidates in all rounds, then take their logits; no process is left, whatever happens.

    Rounds that are finished in `folder` are not repeated.
    """
    free: dict[str, int | None] = {"cpu": machine.memory_available()}
    free |= {
        candidate.device: gpu.free_bytes(candidate.device) for candidate in candidates if candidate.device != "cpu"
    }
    groups = _groups(candidates, {device: 0.8 * there for device, there in free.items() if there is not None})
    if len(groups) > 1:
        work.log.info(
            "memory does not hold all candidates at once: %d groups, started anew in every round", len(groups)
        )
    # ascending, for the peak of memory
    sizes = sorted(settings.batch_sizes)
    rounds, processes = settings.rounds, fresh_processes(settings)
    begun = _begun(work.log, candidates, settings, folder)
    done, visits = float(begun * len(candidates) * len(sizes)), rounds * len(candidates) * len(sizes)
    total = visits + sum(map(_is_evaluated, candidates))
    starts = [len(groups) > 1 or n * processes // rounds != (n - 1) * processes // rounds for n in range(rounds)]
    starts[begun] = True
    budget = Budget(
        work.log, settings.minutes, candidates, sizes, rounds - begun, len(candidates) * sum(starts[begun:])
    )
    effort = Effort(
        warmup_seconds=settings.warmup_seconds, min_seconds=settings.min_seconds, min_queries=settings.min_queries
    )

    def tell(text: str) -> None:
        work.progress(done, total, text)

    try:
        for number in range(begun, rounds):
            for group in groups:
                if starts[number]:
                    for candidate in group:
                        candidate.stop()
                    _start(
                        work.log, [candidate for candidate in group if candidate.error is None], folder, budget, tell
                    )
                first = number * len(group) // rounds
                order = group[first:] + group[:first]
                alone = [[candidate] for candidate in order if candidate.experiment != "latency"]
                together = [[candidate for candidate in order if candidate.experiment == "latency"], *alone]
                # This process too: training left it a context on the GPU, where it is no stranger.
                own = [os.getpid(), *(candidate.worker.pid for candidate in group if candidate.worker)]
                for size, visited in product(sizes, filter(None, together)):
                    where = f"round {number + 1} of {rounds}, batch {size}"
                    efforts = [replace(effort, limit=limit) for limit in budget.next(visited, size)]
                    for share, doing in _visit(work.log, visited, size, folder, efforts, own):
                        reached = done + share * len(visited)
                        work.progress(reached, total, f"{where} ({int(reached)} of {visits} visits): {doing}")
                    done += len(visited)
                for candidate in group:
                    if number == rounds - 1 and _is_evaluated(candidate):
                        _evaluate(work.log, candidate, folder, tell)
                        done += 1
                    if len(groups) > 1:
                        candidate.stop()
            resume.save(folder, number, candidates, settings)
        work.progress(total, total, f"{len(candidates)} candidates measured")
    finally:
        for candidate in candidates:
            candidate.stop()


def _begun(log: logging.Logger, candidates: list[Candidate], settings: Benchmark, folder: Path) -> int:
    """Rounds that need not be repeated; the last one is, as its processes are evaluated. What an interrupted run has
    compiled is removed: nothing tells whether it is whole.
    """
    for compiled in ("inductor", "triton"):
        shutil.rmtree(folder / compiled, ignore_errors=True)
    begun = min(resume.load(folder, candidates, settings, log), settings.rounds - 1)
    if begun:
        log.info("rounds finished before an interruption: %d", begun)
    for candidate in candidates:
        candidate.visits = {size: visits[:begun] for size, visits in candidate.visits.items()}
    return begun


def _groups(candidates: list[Candidate], memory: Mapping[str, float]) -> list[list[Candidate]]:
    """Candidates that fit together, in order, into the host's memory ("cpu") and a GPU's, where known; at least one a
    group.
    """
    groups: list[list[Candidate]] = []
    used: Counter[str] = Counter()
    for candidate in candidates:
        # Weights: in the file's cache, as read and as laid out for the kernels.
        weights = 3 * (candidate.variant.artifact.size_bytes if candidate.variant.artifact else 0)
        needs = Counter({"cpu": PROCESS_BYTES + weights})
        if candidate.device != "cpu":
            needs[candidate.device] = GPU_BYTES + weights
        if not groups or any(used[device] + size > memory.get(device, inf) for device, size in needs.items()):
            groups.append([])
            used = Counter()
        groups[-1].append(candidate)
        used += needs
    return groups


def _start(
    log: logging.Logger, candidates: list[Candidate], folder: Path, budget: Budget, tell: Callable[[str], None]
) -> None:
    """Start processes, a few at a time: each imports its library and opens its model, then sleeps until it is
    visited."""

    def one(candidate: Candidate) -> None:
        candidate.started += 1
        candidate.worker = Worker(candidate.spec, folder / f"{candidate.label.replace('/', '-')}.log")
        try:
            answer = candidate.worker.receive()
            candidate.provider, candidate.baseline = answer["provider"], answer["rss_baseline_bytes"]
            candidate.open_seconds = max(candidate.open_seconds, answer["open_seconds"])
        except CandidateError as error:
            candidate.fail(log, error)

    begin = time.monotonic()
    tell(f"opening {len(candidates)} candidate{'' if len(candidates) == 1 else 's'}")
    with ThreadPoolExecutor(STARTED_AT_ONCE) as pool:
        for number, _ in enumerate(pool.map(one, candidates), 1):
            tell(f"opened {number} of {len(candidates)} candidates, the last: {candidates[number - 1].label}")
    budget.started(len(candidates), time.monotonic() - begin)


def _visit(
    log: logging.Logger, candidates: list[Candidate], size: int, folder: Path, efforts: list[Effort], own: list[int]
) -> Iterator[tuple[float, str]]:
    """One round of one batch size: all warm up, then measure in turns; those that have failed are left out.

    Yields the share that is done, and what is done next. `own`: processes of all candidates.
    """

    @contextmanager
    def process(candidate: Candidate) -> Iterator[Worker]:
        assert candidate.worker is not None
        try:
            yield candidate.worker
        except CandidateError as error:
            candidate.fail(log, error, size)

    def able(order: list[Candidate]) -> list[Candidate]:
        return [candidate for candidate in order if candidate.worker is not None and size not in candidate.errors]

    turns = TURNS if candidates[0].experiment == "latency" else 1
    for number, candidate in enumerate(able(candidates)):
        yield WARMUP_SHARE * number / len(candidates), f"{candidate.label}, warming up"
        effort = efforts[candidates.index(candidate)]
        with process(candidate) as worker:
            level = worker.warm_up(candidate.experiment, size, effort, own)
            turns = min(turns, _turns(effort, level)) if turns > 1 else 1
    for turn in range(turns):
        what = candidates[0].label if len(candidates) == 1 else f"{len(candidates)} candidates in turns"
        yield WARMUP_SHARE + (1 - WARMUP_SHARE) * turn / turns, what
        first = turn % len(candidates)
        for candidate in able(candidates[first:] + candidates[:first]):
            with process(candidate) as worker:
                worker.turn(turns)
    out = folder / "visit.npz"
    for candidate in able(candidates):
        with process(candidate) as worker:
            answer = worker.finish(out)
            with np.load(out) as arrays:
                visit = Visit(arrays["samples"], arrays["turns"], arrays.get("gpu"), candidate.started, answer)
            candidate.visits.setdefault(size, []).append(visit)
            if candidate.device != "cpu" and answer["vram_peak_bytes"] is None and len(candidate.visits[size]) == 1:
                log.info(
                    "%s: GPU memory unknown: NVML is missing or does not list the process (as in a container without"
                    " --pid=host)",
                    candidate.label,
                )


def _turns(effort: Effort, query_ns: float) -> int:
    """Turns that a latency visit is worth, for a candidate whose query takes so long."""
    query = query_ns / 1e9
    seconds = max(effort.min_seconds, effort.min_queries * query)
    if effort.measure_limit is not None:
        seconds = min(seconds, effort.measure_limit)
    return max(1, min(TURNS, int(seconds / max(TURN_SECONDS, TURN_QUERIES * query))))


def _is_evaluated(candidate: Candidate) -> bool:
    """Whether a candidate takes the held-out images, when its rounds have ended."""
    return candidate.experiment == "latency" and candidate.spec.images is not None


def _evaluate(log: logging.Logger, candidate: Candidate, folder: Path, tell: Callable[[str], None]) -> None:
    if candidate.worker is None:
        return
    tell(f"{candidate.variant.name} · {candidate.runtime} · {candidate.device}: all held-out images")
    out = folder / "logits.npy"
    try:
        candidate.worker.ask("evaluate", out=str(out))
        logits = np.load(out)
        metrics.predictions(logits)
        candidate.logits = logits
    except Killed as error:
        candidate.fail(log, error)
    except (CandidateError, ValueError) as error:
        candidate.fail(log, CandidateError(f"evaluation: {error}"))
