"""How a benchmark shares the minutes that the study allows it.

Where the minutes are short, every visit measures fewer queries, and every candidate still gets its row.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import logging

    from tasks.candidates.candidate import Candidate
    from tasks.records import Benchmark

# The shortest latency visit runs four queries: the first one, one of warm-up, one that is measured, and the one that
# crosses the limit of time.
SHORTEST_LATENCY_QUERIES = 4
# The shortest throughput visit runs seven queries per slot: the first two (one slot after the other), two of warm-up,
# two that are measured, and the one that crosses the limit of time.
SHORTEST_SLOT_QUERIES = 7
# Visits get this share of the minutes. The rest is for starting up and for writing the tables.
USED_SHARE = 0.97


class Budget:
    """The time that is left for a benchmark.

    What the visits to come need at their shortest is set aside, and so is the time for starting processes and for
    evaluating. What remains is shared equally among the visits to come.
    """

    def __init__(
        self, log: logging.Logger, candidates: list[Candidate], settings: Benchmark, *, rounds: int, starts: int
    ) -> None:
        """Begin to count the time of `rounds` rounds, in which `starts` worker processes will be started."""
        self.log = log
        self.candidates = candidates
        self.minutes = settings.minutes
        self.begin = time.monotonic()
        # The time at which the visits have to be over. None means no limit.
        self.end = None if self.minutes is None else self.begin + USED_SHARE * 60 * self.minutes
        self.warned = False
        self.starts_to_come = starts
        # How long one start took, the last time that processes were started.
        self.seconds_per_start = 0.0
        # How many visits are still to come, by candidate and batch size.
        self.visits_to_come = {
            (candidate, batch_size): rounds for candidate in candidates for batch_size in settings.batch_sizes
        }

    def record_starts(self, count: int, seconds: float) -> None:
        """Record that `count` worker processes were started and that this took `seconds` in total."""
        self.starts_to_come -= count
        self.seconds_per_start = seconds / max(count, 1)

    def next_limits(self, candidates: list[Candidate], batch_size: int) -> list[float | None]:
        """Return how many seconds each of these candidates' next visits may take, warm-up included.

        None means no limit. The candidates are visited together, at this batch size.
        """
        if self.end is None:
            return [None] * len(candidates)
        to_come = {
            (candidate, size): visits
            for (candidate, size), visits in self.visits_to_come.items()
            if visits and not candidate.error
        }
        reserved = self.starts_to_come * self.seconds_per_start
        reserved += sum(_evaluation_seconds(candidate) for candidate in self.candidates)
        reserved += sum(visits * _shortest_seconds(candidate, size) for (candidate, size), visits in to_come.items())
        spare = self.end - time.monotonic() - reserved
        if spare < 0:
            self._warn(reserved)
        share = max(spare / max(sum(to_come.values()), 1), 0.0)
        for candidate in candidates:
            self.visits_to_come[candidate, batch_size] -= 1
        # The shortest time includes the first query, which runs before the limit begins to count: half of it is left.
        return [share + _shortest_seconds(candidate, batch_size) / 2 for candidate in candidates]

    def _warn(self, reserved: float) -> None:
        """Warn, once, that the minutes do not suffice for what is reserved (in seconds)."""
        if self.warned:
            return
        self.warned = True
        needed = (time.monotonic() - self.begin + reserved) / 60
        self.log.warning(
            "benchmark.minutes: %g will be overrun: even the shortest visits take about %.1f minutes in all, and no "
            "candidate is left out; ask for fewer rounds, batch sizes, runtimes or processes, or for more minutes",
            self.minutes,
            needed,
        )


def _shortest_seconds(candidate: Candidate, batch_size: int) -> float:
    """Return how many seconds a candidate's visit takes at its shortest.

    It is estimated from the nearest batch size that was measured. Before any was, it is 0.
    """
    if not candidate.visits:
        return 0.0
    known_size = max((size for size in candidate.visits if size <= batch_size), default=min(candidate.visits))
    visit = candidate.visits[known_size][-1]
    if candidate.experiment == "latency":
        seconds = SHORTEST_LATENCY_QUERIES * float(np.median(visit.samples)) / 1e9
    else:
        seconds = SHORTEST_SLOT_QUERIES * candidate.spec.slots / visit.queries_per_second
    return seconds * batch_size / known_size


def _evaluation_seconds(candidate: Candidate) -> float:
    """Return how many seconds a candidate's evaluation will take, estimated from the largest batch size measured.

    It is 0 before any was measured, and where no evaluation is to come.
    """
    images = candidate.spec.images
    if candidate.experiment != "latency" or images is None or candidate.logits is not None:
        return 0.0
    if not candidate.visits or candidate.error:
        return 0.0
    batch_size = max(candidate.visits)
    query_seconds = float(np.median(candidate.visits[batch_size][-1].samples)) / 1e9
    return len(np.load(images.rows, mmap_mode="r")) / batch_size * query_seconds
