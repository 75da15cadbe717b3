"""The rounds of a benchmark: its candidates are visited in fresh processes, one at a time, on locked devices.

In every round all candidates are started, and each batch size is visited in turns: all candidates warm up, then each
measures for a moment, again and again, in an order that rotates. So what disturbs the machine for a while disturbs all
candidates alike, and the turns of two candidates are pairs. Where memory does not hold all candidates at once, they are
visited in groups.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from tasks.candidates import resume
from tasks.candidates.budget import Budget
from tasks.candidates.candidate import Candidate, fresh_processes
from tasks.candidates.process import CandidateError, Effort, Killed, Worker
from tasks.candidates.visits import Visits
from tasks.machine import devices
from tasks.measure import metrics

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.records import Benchmark

# Importing PyTorch keeps a core busy for seconds, so only this many workers start at a time.
STARTED_AT_ONCE = 2
# A worker's own memory with PyTorch imported (314 MB measured). The rest of its memory is shared with the others.
PROCESS_BYTES = 350_000_000
# A worker's own memory on a GPU: its CUDA context, kernels and workspaces (an estimate).
GPU_BYTES = 1_500_000_000
# Groups are planned for this share of the free memory, because the two figures above are estimates.
USED_MEMORY = 0.8


def run(work: Work, candidates: list[Candidate], settings: Benchmark, folder: Path) -> None:
    """Visit all candidates in all rounds, then evaluate those that have images. No worker is left running.

    Rounds that an interrupted benchmark has finished in `folder` are not repeated.
    """
    rounds = _Rounds(work, candidates, settings, folder)
    try:
        rounds.run()
    finally:
        for candidate in candidates:
            candidate.stop()


class _Rounds:
    """The rounds of one benchmark, and how much of it is done."""

    def __init__(self, work: Work, candidates: list[Candidate], settings: Benchmark, folder: Path) -> None:
        self.work = work
        self.candidates = candidates
        self.settings = settings
        self.folder = folder
        # Candidates that memory holds at once.
        self.groups = _groups(candidates, _usable_memory(candidates))
        if len(self.groups) > 1:
            work.log.info(
                "memory does not hold all candidates at once: %d groups, started anew in every round", len(self.groups)
            )
        # Ascending, so that the peak of memory after a batch size is not that of a larger one.
        self.batch_sizes = sorted(settings.batch_sizes)
        # The first round that is measured now, counted from 0.
        self.first_round = _load_finished(work.log, candidates, settings, folder)
        # Rounds at whose beginning all workers are started.
        self.starting_rounds = self._starting_rounds()
        self.budget = Budget(
            work.log,
            candidates,
            settings,
            rounds=settings.rounds - self.first_round,
            starts=len(candidates) * len(self.starting_rounds),
        )
        visits_per_round = len(candidates) * len(self.batch_sizes)
        self.visits = settings.rounds * visits_per_round
        # Steps of progress: visits and evaluations.
        self.steps = self.visits + sum(map(_is_evaluated, candidates))
        self.steps_done = float(self.first_round * visits_per_round)

    def _starting_rounds(self) -> set[int]:
        """Return the rounds, from the first that is measured now, at whose beginning all workers are started."""
        if len(self.groups) > 1:
            return set(range(self.first_round, self.settings.rounds))
        rounds, processes = self.settings.rounds, fresh_processes(self.settings)
        starting = {
            number
            for number in range(self.first_round, rounds)
            if number * processes // rounds != (number - 1) * processes // rounds
        }
        return starting | {self.first_round}

    def run(self) -> None:
        """Measure the rounds that are still to come, and save each one when it is finished."""
        for number in range(self.first_round, self.settings.rounds):
            for group in self.groups:
                if number in self.starting_rounds:
                    self._start(group)
                self._visit_group(group, number)
                for candidate in group:
                    if number == self.settings.rounds - 1 and _is_evaluated(candidate):
                        self._evaluate(candidate)
                        self.steps_done += 1
                    if len(self.groups) > 1:
                        candidate.stop()
            resume.save(self.folder, number, self.candidates, self.settings)
        self.work.progress(self.steps, self.steps, f"all {len(self.candidates)} measured")

    def _report(self, text: str) -> None:
        self.work.progress(self.steps_done, self.steps, text)

    def _start(self, group: list[Candidate]) -> None:
        """Start fresh workers, a few at a time. Each opens its model and then sleeps until it is visited."""
        for candidate in group:
            candidate.stop()
        candidates = [candidate for candidate in group if candidate.error is None]
        begin = time.monotonic()
        self._report(f"opening {len(candidates)} candidate{'' if len(candidates) == 1 else 's'}")
        with ThreadPoolExecutor(STARTED_AT_ONCE) as pool:
            for number, candidate in enumerate(pool.map(self._open, candidates), 1):
                self._report(f"opened {number} of {len(candidates)} candidates, the last: {candidate.label}")
        self.budget.record_starts(len(candidates), time.monotonic() - begin)

    def _open(self, candidate: Candidate) -> Candidate:
        """Start a candidate's worker, wait until it has opened the model, and return the candidate."""
        candidate.started += 1
        candidate.worker = Worker(candidate.spec, self.folder / f"{candidate.label.replace('/', '-')}.log")
        try:
            answer = candidate.worker.receive()
            candidate.provider = answer["provider"]
            candidate.baseline = answer["rss_baseline_bytes"]
            candidate.open_seconds = max(candidate.open_seconds, answer["open_seconds"])
        except CandidateError as error:
            candidate.fail(self.work.log, error)
        return candidate

    def _visit_group(self, group: list[Candidate], number: int) -> None:
        """Visit the candidates of a group in round `number`, one batch size after the other."""
        first = number * len(group) // self.settings.rounds
        order = group[first:] + group[:first]
        # Latencies are measured in turns, all candidates together. A throughput takes the whole device.
        together = [[candidate for candidate in order if candidate.experiment == "latency"]]
        together += [[candidate] for candidate in order if candidate.experiment != "latency"]
        # This process is none of another program either: training has left it a context on the GPU.
        known_pids = [os.getpid(), *(candidate.worker.pid for candidate in group if candidate.worker)]
        for batch_size in self.batch_sizes:
            for candidates in together:
                if candidates:
                    self._visit_together(candidates, batch_size, number, known_pids)

    def _visit_together(self, candidates: list[Candidate], batch_size: int, number: int, known_pids: list[int]) -> None:
        """Visit candidates in turns at one batch size, and report the progress."""
        effort = Effort(
            warmup_seconds=self.settings.warmup_seconds,
            min_seconds=self.settings.min_seconds,
            min_queries=self.settings.min_queries,
        )
        limits = self.budget.next_limits(candidates, batch_size)
        efforts = [replace(effort, limit=limit) for limit in limits]
        visits = Visits(
            log=self.work.log,
            folder=self.folder,
            candidates=candidates,
            batch_size=batch_size,
            efforts=dict(zip(candidates, efforts, strict=True)),
            known_pids=known_pids,
        )
        where = f"round {number + 1} of {self.settings.rounds}, batch {batch_size}"
        for share, doing in visits.measure():
            done = self.steps_done + share * len(candidates)
            self.work.progress(done, self.steps, f"{where} ({int(done)} of {self.visits} visits): {doing}")
        self.steps_done += len(candidates)

    def _evaluate(self, candidate: Candidate) -> None:
        """Let a candidate classify all test images, and keep the logits."""
        if candidate.worker is None:
            return
        self._report(f"{candidate.variant.name} · {candidate.runtime} · {candidate.device}: all held-out images")
        out = self.folder / "logits.npy"
        try:
            candidate.worker.ask("evaluate", out=str(out))
            logits = np.load(out)
            # Raises ValueError where a logit is not finite.
            metrics.predictions(logits)
            candidate.logits = logits
        except Killed as error:
            candidate.fail(self.work.log, error)
        except (CandidateError, ValueError) as error:
            candidate.fail(self.work.log, CandidateError(f"evaluation: {error}"))


def _load_finished(log: logging.Logger, candidates: list[Candidate], settings: Benchmark, folder: Path) -> int:
    """Give the candidates the visits of finished rounds, and return how many rounds need not be measured.

    The last round is always measured, because its workers also evaluate. What an interrupted benchmark has compiled is
    removed, because nothing tells whether it is whole.
    """
    for compiled in ("inductor", "triton"):
        shutil.rmtree(folder / compiled, ignore_errors=True)
    finished = min(resume.load(folder, candidates, settings, log), settings.rounds - 1)
    if finished:
        log.info("rounds finished before an interruption: %d", finished)
    for candidate in candidates:
        candidate.visits = {size: visits[:finished] for size, visits in candidate.visits.items()}
    return finished


def _usable_memory(candidates: list[Candidate]) -> dict[str, float]:
    """Return how many bytes the workers may take, by device ("cpu": the host). A GPU that does not tell is left out."""
    names = {"cpu", *(candidate.device for candidate in candidates)}
    free = {device: devices.free_bytes(device) for device in names}
    return {device: USED_MEMORY * free_bytes for device, free_bytes in free.items() if free_bytes is not None}


def _groups(candidates: list[Candidate], memory: Mapping[str, float]) -> list[list[Candidate]]:
    """Return the candidates, in order, in groups that fit into memory together. A group has at least one candidate.

    `memory` is the bytes that the workers may take, by device ("cpu": the host). A device that it leaves out counts as
    large enough.
    """
    groups: list[list[Candidate]] = []
    used: Counter[str] = Counter()
    for candidate in candidates:
        # Weights are in memory three times: in the file's cache, as read, and as laid out for the kernels.
        artifact = candidate.variant.artifact
        weights = 3 * (artifact.size_bytes if artifact else 0)
        needs = Counter({"cpu": PROCESS_BYTES + weights})
        if candidate.device != "cpu":
            needs[candidate.device] = GPU_BYTES + weights
        if not groups or any(used[device] + size > memory.get(device, inf) for device, size in needs.items()):
            groups.append([])
            used = Counter()
        groups[-1].append(candidate)
        used += needs
    return groups


def _is_evaluated(candidate: Candidate) -> bool:
    """Return whether a candidate classifies all test images when its rounds have ended."""
    return candidate.experiment == "latency" and candidate.spec.images is not None
