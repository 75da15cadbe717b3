"""The clock: warm-up, latency, throughput. It knows no runtime: what is timed is a function."""

from __future__ import annotations

import gc
import math
from array import array
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Barrier, Event
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# two consecutive warm-up windows may differ by this much
AGREE = 0.05
# warm-up ends after this many times its least duration, agreed or not
PATIENCE = 4
# least calls a warm-up window
WINDOW_CALLS = 3


def warm_up(call: Callable[[], object], seconds: float, limit: float | None = None) -> tuple[float, bool, float]:
    """Call until `seconds` have passed and the medians of two consecutive windows agree within 5 %.

    A window lasts a quarter of `seconds` and at least 3 calls. Given up after 4 × `seconds` (and two windows), or with
    the call that crosses `limit` seconds; there is at least one call. No more than half of `limit` counts as `seconds`:
    the other half is for windows of a noisy machine to agree.

    Returns
    -------
    spent : seconds
    stable : whether the last two windows agreed (the one that `limit` cut off counts as it is)
    level : nanoseconds, the median of the last window
    """

    least = _least(seconds, limit)

    def window(end: float) -> float:
        durations: list[int] = []
        opened = now = perf_counter_ns()
        while (len(durations) < WINDOW_CALLS or now - opened < least / 4 * 1e9) and (now < end or not durations):
            start = perf_counter_ns()
            call()
            now = perf_counter_ns()
            durations.append(now - start)
        return float(np.median(durations))

    return _settle(window, least, limit)


def _least(seconds: float, limit: float | None) -> float:
    return seconds if limit is None else min(seconds, limit / 2)


def warm_up_slots(
    call_of_slot: Sequence[Callable[[], object]], seconds: float, limit: float | None = None
) -> tuple[float, bool, float]:
    """`warm_up` for `throughput`: all slots call back to back, until the rates of two consecutive windows agree.

    `level` is the last one's rate, queries a second.
    """

    least = _least(seconds, limit)

    def window(end: float) -> float:
        left = max(0.0, (end - perf_counter_ns()) / 1e9)
        return rate(throughput(call_of_slot, min(least / 4, left), WINDOW_CALLS * len(call_of_slot), left))

    return _settle(window, least, limit)


def _settle(window: Callable[[float], float], seconds: float, limit: float | None) -> tuple[float, bool, float]:
    """Open windows until two consecutive ones agree; a window takes the time (ns) at which it must end."""
    levels: list[float] = []
    begin = perf_counter_ns()
    end = math.inf if limit is None else begin + limit * 1e9
    while True:
        levels.append(window(end))
        now = perf_counter_ns()
        spent = (now - begin) / 1e9
        agreed = len(levels) > 1 and abs(levels[-1] - levels[-2]) <= AGREE * min(levels[-2:])
        if agreed and spent >= seconds:
            return spent, True, levels[-1]
        if (len(levels) > 1 and spent >= PATIENCE * seconds) or now >= end:
            return spent, agreed, levels[-1]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The garbage collector rests meanwhile."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def measure(call: Callable[[], object], min_seconds: float, min_queries: int, limit: float | None = None) -> np.ndarray:
    """Time every call, one after the other, until both least values are reached: int64 nanoseconds, one a call.

    The call that crosses `limit` seconds is the last one; there is at least one. The garbage collector rests meanwhile.
    The clock's own part of a sample is under a microsecond.
    """
    samples = array("q")
    keep, clock = samples.append, perf_counter_ns
    with _undisturbed():
        now = clock()
        enough = now + int(min_seconds * 1e9)
        end = math.inf if limit is None else now + limit * 1e9
        while (now < enough or len(samples) < min_queries) and (now < end or not samples):
            start = clock()
            call()
            now = clock()
            keep(now - start)
    return np.frombuffer(samples, np.int64).copy()


def throughput(
    call_of_slot: Sequence[Callable[[], object]], seconds: float, min_queries: int, limit: float | None = None
) -> np.ndarray:
    """Call back to back in one thread a slot until `seconds` have passed and `min_queries` calls returned, in all
    slots.

    Each slot ends with the call that reaches this, or that crosses `limit` seconds, but not before its second one.

    Returns
    -------
    completions : int64, sorted, ns from the common start. Only those are kept up to which all slots were busy: until
    the
        first slot stopped. `rate` says how many that is a second.

    Raises
    ------
    Exception
        What a slot's call raised; it ends all slots.
    """
    ends = [array("q") for _ in call_of_slot]

    def slot(call: Callable[[], object], mine: array[int]) -> Callable[[int, Event], None]:
        def body(begin: int, stop: Event) -> None:
            last = math.inf if limit is None else limit * 1e9
            now = 0
            while not stop.is_set():
                if len(mine) > 1 and (now >= last or (now >= seconds * 1e9 and sum(map(len, ends)) >= min_queries)):
                    return
                call()
                now = perf_counter_ns() - begin
                mine.append(now)

        return body

    in_slots([slot(call, mine) for call, mine in zip(call_of_slot, ends, strict=True)])
    first_stop = min(mine[-1] for mine in ends)
    completions = np.sort(np.concatenate([np.frombuffer(mine, np.int64) for mine in ends]))
    return completions[completions <= first_stop]


def rate(completions: np.ndarray) -> float:
    """Queries a second from `throughput`'s completions, counted from the first one.

    So it does not matter that all slots start together, nor that the last queries of all but one slot are cut off.
    """
    return (len(completions) - 1) / float(completions[-1] - completions[0]) * 1e9


def in_slots(bodies: Sequence[Callable[[int, Event], None]]) -> None:
    """Run functions, each in its own thread, from a common start; the garbage collector rests meanwhile.

    A body takes the start (ns) and an event, set once another one failed, upon which it returns. What a body raises is
    raised here.
    """
    begin: list[int] = []
    stop = Event()
    start = Barrier(len(bodies), lambda: begin.append(perf_counter_ns()))

    def run(body: Callable[[int, Event], None]) -> None:
        start.wait()
        try:
            body(begin[0], stop)
        except BaseException:
            stop.set()
            raise

    with _undisturbed():
        running = [_threads(len(bodies)).submit(run, body) for body in bodies]
        try:
            for future in running:
                future.result()
        finally:
            stop.set()
            wait(running)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that live on: PyTorch has cuDNN choose its algorithms anew in each new one."""
    return ThreadPoolExecutor(count)
