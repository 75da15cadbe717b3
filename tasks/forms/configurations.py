"""Configurations: in which ways a runtime can open a file, and which of them is the fastest on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks import runtimes
from tasks.forms.choice import by_turns
from tasks.tables.variants import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ROUNDS = 7
"""Times that two configurations are measured by turns. One that brings nothing is the faster in all of them in one of
128 cases."""
FASTER = 0.97
"""A configuration is taken where its latency is at most this multiple of the other's, and less in every round."""
Times = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Configuration:
    """How a runtime opens a file on a CPU."""

    threads: int
    options: tuple[str, ...] = ()
    """Names of options of the runtime."""

    def difference(self, usual: Configuration) -> tuple[str, ...]:
        """Return in words how it differs from the usual configuration, which has no options."""
        words = f"{self.threads}-thread{'s' if self.threads > 1 else ''}"
        return (words, *self.options) if self.threads != usual.threads else self.options


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A configuration that was measured by turns with the fastest before it."""

    configuration: Configuration
    against: Configuration
    ratio: float | None = None
    """Its latency as a multiple of the other's. None: it failed."""
    rounds_faster: int = 0
    """In how many of the rounds it was the faster one."""
    seconds: float
    error: str | None = None

    @property
    def taken(self) -> bool:
        """Whether it is clearly faster."""
        return self.ratio is not None and self.ratio <= FASTER and self.rounds_faster == ROUNDS


def compared(
    usual: Configuration, options: Sequence[str], measure: Callable[[Configuration, Configuration], Times]
) -> Iterator[Compared]:
    """Yield one configuration after the other: fewer threads by halves, then each option beside the fastest so far.

    Parameters
    ----------
    usual
        The configuration to begin with. It has the most threads that are allowed.
    measure
        Returns the times of two configurations, a median per round each, measured by turns.
    """
    best = usual
    threads = usual.threads // 2
    while threads:
        trial = _compare(Configuration(threads), best, measure)
        yield trial
        if trial.taken:
            best = trial.configuration
        threads //= 2
    for option in options:
        trial = _compare(Configuration(best.threads, (*best.options, option)), best, measure)
        yield trial
        if trial.taken:
            best = trial.configuration


def _compare(
    configuration: Configuration,
    against: Configuration,
    measure: Callable[[Configuration, Configuration], Times],
) -> Compared:
    started = time.monotonic()
    try:
        others, times = measure(against, configuration)
    except Exception as error:
        # The runtime raises whatever it likes. The others are tried.
        seconds = time.monotonic() - started
        return Compared(configuration=configuration, against=against, seconds=seconds, error=failure(error))
    return Compared(
        configuration=configuration,
        against=against,
        ratio=float(np.median(times) / np.median(others)),
        rounds_faster=int(np.sum(np.less(times, others))),
        seconds=time.monotonic() - started,
    )


def times_of(runtime: str, path: Path, image: np.ndarray, configurations: tuple[Configuration, Configuration]) -> Times:
    """Open a file in two configurations, and return the latencies of both for one image, in nanoseconds.

    The runtime's threads must be those of a session alone, as ONNX Runtime's and OpenVINO's are.
    """
    runtimes.load(runtime).load_library("cpu")
    one, other = (
        runtimes.open_model(runtime, path, "cpu", 1, each.threads, options=each.options) for each in configurations
    )
    try:
        return by_turns((one, other), image, ROUNDS)
    finally:
        one.close()
        other.close()
