"""Visits to candidates in turns, at one batch size in one round."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.candidates.candidate import Visit
from tasks.candidates.process import WARMUP_SHARE, CandidateError

if TYPE_CHECKING:
    import logging
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from tasks.candidates.candidate import Candidate
    from tasks.candidates.process import Effort, Worker

# A visit is cut into at most this many turns, so that a disturbance hits all candidates alike.
TURNS = 20
# A turn lasts at least this long, and long enough for this many queries of the slowest candidate: each turn begins with
# a query that is not counted.
TURN_SECONDS = 0.05
TURN_QUERIES = 5


@dataclass(frozen=True, kw_only=True)
class Visits:
    """The visits to candidates that take turns, at one batch size in one round. Those that have failed are left out."""

    log: logging.Logger
    folder: Path
    candidates: list[Candidate]
    batch_size: int
    efforts: dict[Candidate, Effort]
    known_pids: list[int]
    """Processes that are not foreign on the device: this one and all workers."""

    def measure(self) -> Iterator[tuple[float, str]]:
        """Measure all candidates. Yield the share that is done, and what is done next."""
        turns = yield from self._warm_up()
        yield from self._take_turns(turns)
        for candidate in self._able(self.candidates):
            self._finish(candidate)

    def _warm_up(self) -> Generator[tuple[float, str], None, int]:
        """Warm up all candidates, and return how many turns the visits have."""
        turns = TURNS if self.candidates[0].experiment == "latency" else 1
        for number, candidate in enumerate(self._able(self.candidates)):
            yield WARMUP_SHARE * number / len(self.candidates), f"{candidate.label}, warming up"
            effort = self.efforts[candidate]
            with self._worker(candidate) as worker:
                level = worker.warm_up(candidate.experiment, self.batch_size, effort, self.known_pids)
                if candidate.experiment == "latency":
                    turns = min(turns, _turns(effort, level))
        return turns

    def _take_turns(self, turns: int) -> Iterator[tuple[float, str]]:
        """Measure in turns. In each turn another candidate is the first."""
        count = len(self.candidates)
        doing = self.candidates[0].label if count == 1 else f"{count} candidates in turns"
        for turn in range(turns):
            yield WARMUP_SHARE + (1 - WARMUP_SHARE) * turn / turns, doing
            first = turn % count
            for candidate in self._able(self.candidates[first:] + self.candidates[:first]):
                with self._worker(candidate) as worker:
                    worker.turn(turns)

    def _finish(self, candidate: Candidate) -> None:
        """End a candidate's visit, and keep what was measured."""
        out = self.folder / "visit.npz"
        with self._worker(candidate) as worker:
            answer = worker.finish(out)
            with np.load(out) as arrays:
                visit = Visit(arrays["samples"], arrays["turns"], arrays.get("gpu"), candidate.started, answer)
            visits = candidate.visits.setdefault(self.batch_size, [])
            visits.append(visit)
            if candidate.device != "cpu" and answer["vram_peak_bytes"] is None and len(visits) == 1:
                self.log.info(
                    "%s: GPU memory unknown: NVML is missing or does not list the process (as in a container without"
                    " --pid=host)",
                    candidate.label,
                )

    def _able(self, candidates: list[Candidate]) -> list[Candidate]:
        """Return the candidates that have not failed, as a whole or at this batch size."""
        return [
            candidate
            for candidate in candidates
            if candidate.worker is not None and self.batch_size not in candidate.errors
        ]

    @contextmanager
    def _worker(self, candidate: Candidate) -> Iterator[Worker]:
        """Give a candidate's worker. What it cannot do is recorded as the candidate's failure."""
        assert candidate.worker is not None
        try:
            yield candidate.worker
        except CandidateError as error:
            candidate.fail(self.log, error, self.batch_size)


def _turns(effort: Effort, query_ns: float) -> int:
    """Return into how many turns a latency visit is cut, for a candidate whose query takes `query_ns` nanoseconds."""
    query_seconds = query_ns / 1e9
    seconds = max(effort.min_seconds, effort.min_queries * query_seconds)
    if effort.measure_limit is not None:
        seconds = min(seconds, effort.measure_limit)
    return max(1, min(TURNS, int(seconds / max(TURN_SECONDS, TURN_QUERIES * query_seconds))))
