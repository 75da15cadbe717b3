"""The time that a benchmark may take, shared among its visits: fewer queries where it is short, and every row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import logging

    from tasks.candidates.candidate import Candidate

# queries of a visit at its shortest: the first, one of warm-up, one measured, one that crosses a limit
CALLS = 4
SLOT_CALLS = (
    # of a slot: the first two (one slot after the other), two of warm-up, two measured, one that crosses a limit
    7
)
# of the minutes; the rest is for starting and for writing tables
USED = 0.97


class Budget:
    """What each visit to come cannot do without is set aside; what is left is shared alike."""

    def __init__(
        self,
        log: logging.Logger,
        minutes: float | None,
        candidates: list[Candidate],
        sizes: list[int],
        rounds: int,
        starts: int,
    ) -> None:
        """`starts`: processes that will be started."""
        self.log, self.minutes, self.begin, self.warned = log, minutes, time.monotonic(), False
        self.end = None if minutes is None else time.monotonic() + USED * 60 * minutes
        self.candidates, self.sizes, self.starts, self.start_seconds = candidates, sizes, starts, 0.0
        self.left = {(index, size): rounds for index in range(len(candidates)) for size in sizes}
        """Visits to come, by the number of the candidate and the batch size."""

    def started(self, count: int, seconds: float) -> None:
        """So many processes were started, which took so long."""
        self.starts -= count
        self.start_seconds = seconds / max(count, 1)

    def next(self, candidates: list[Candidate], size: int) -> list[float | None]:
        """Seconds for warm-up and measuring of the next visits, which are in turns; None: no limit."""
        if self.end is None:
            return [None] * len(candidates)
        to_come = [
            (self.candidates[i], n, rounds)
            for (i, n), rounds in self.left.items()
            if rounds and not self.candidates[i].error
        ]
        reserved = self.starts * self.start_seconds + sum(_evaluation_seconds(other) for other in self.candidates)
        reserved += sum(rounds * _least(other, n) for other, n, rounds in to_come)
        spare = self.end - time.monotonic() - reserved
        if spare < 0 and not self.warned:
            self.warned = True
            needed = (time.monotonic() - self.begin + reserved) / 60
            self.log.warning(
                "benchmark.minutes: %g will be overrun: visits at their shortest take about %.1f minutes in all, "
                "and no row "
                "is left out; ask for fewer rounds, batch sizes, runtimes or processes, or for more minutes",
                self.minutes,
                needed,
            )
        share = max(spare / max(sum(rounds for _, _, rounds in to_come), 1), 0.0)
        for index, candidate in enumerate(self.candidates):
            if any(candidate is other for other in candidates):
                self.left[index, size] -= 1
        # the first query is not in it
        return [share + _least(candidate, size) / 2 for candidate in candidates]


def _least(candidate: Candidate, size: int) -> float:
    """Seconds of a visit at its shortest, from the nearest batch size measured; 0 before that."""
    if not candidate.visits:
        return 0.0
    known = max((n for n in candidate.visits if n <= size), default=min(candidate.visits))
    visit = candidate.visits[known][-1]
    if candidate.experiment == "latency":
        seconds = CALLS * float(np.median(visit.samples)) / 1e9
    else:
        seconds = SLOT_CALLS * candidate.spec.slots / visit.queries_per_second
    return seconds * size / known


def _evaluation_seconds(candidate: Candidate) -> float:
    """What evaluating a candidate will take, from the largest batch measured; 0 before that, or if it is not asked."""
    images = candidate.spec.images
    if (
        candidate.experiment != "latency"
        or images is None
        or candidate.logits is not None
        or not candidate.visits
        or candidate.error
    ):
        return 0.0
    size = max(candidate.visits)
    return len(np.load(images.rows, mmap_mode="r")) / size * float(np.median(candidate.visits[size][-1].samples)) / 1e9
