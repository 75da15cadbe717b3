"""The clock: warm-up, latency and throughput. It knows no runtime; what it times is a function."""

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

# Two consecutive warm-up windows agree if their levels differ by at most this share of the lower one.
AGREE = 0.05
# Warm-up ends after this many times its shortest duration, whether windows agree or not.
PATIENCE = 4
# A warm-up window has at least this many calls (per slot), so that its median is not a single call's.
WINDOW_CALLS = 3


def warm_up(call: Callable[[], object], seconds: float, limit: float | None = None) -> tuple[float, bool, float]:
    """Call until `seconds` have passed and the medians of two consecutive windows agree within 5 %.

    A window lasts a quarter of `seconds` and at least 3 calls. Warm-up gives up after 4 × `seconds` (and two windows),
    or with the call that crosses `limit` seconds, but makes at least one call. At most half of `limit` counts as
    `seconds`; the other half is left for the windows of a noisy machine to agree.

    Returns
    -------
    spent
        Seconds.
    stable
        Whether the last two windows agreed. A window that `limit` cut short counts as it is.
    level
        Median duration of the calls in the last window, in nanoseconds.
    """
    least = _shortest(seconds, limit)

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


def _shortest(seconds: float, limit: float | None) -> float:
    """Return the shortest duration of a warm-up, in seconds: `seconds`, but at most half of `limit`."""
    return seconds if limit is None else min(seconds, limit / 2)


def warm_up_slots(
    call_of_slot: Sequence[Callable[[], object]], seconds: float, limit: float | None = None
) -> tuple[float, bool, float]:
    """Warm up as `warm_up` does, but for `throughput`: all slots call back to back until windows agree in their rates.

    `level` is the rate of the last window, in queries per second.
    """
    least = _shortest(seconds, limit)

    def window(end: float) -> float:
        remaining = max(0.0, (end - perf_counter_ns()) / 1e9)
        calls = WINDOW_CALLS * len(call_of_slot)
        return rate(throughput(call_of_slot, min(least / 4, remaining), calls, remaining))

    return _settle(window, least, limit)


def _settle(window: Callable[[float], float], seconds: float, limit: float | None) -> tuple[float, bool, float]:
    """Measure windows until two consecutive ones agree, and return what `warm_up` does.

    `window` takes the time at which it must end (nanoseconds of `perf_counter_ns`) and returns its level.
    """
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
    """Collect garbage once, and then switch the collector off while the block runs."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def measure(call: Callable[[], object], min_seconds: float, min_queries: int, limit: float | None = None) -> np.ndarray:
    """Time every call, one after the other, until there are `min_seconds` and `min_queries` of them.

    The call that crosses `limit` seconds is the last one, but there is at least one. The garbage collector is off. The
    clock adds less than a microsecond to a sample.

    Returns
    -------
    samples
        int64 nanoseconds, one per call, in order.
    """
    samples = array("q")
    # Looked up once, outside the loop that is timed.
    keep = samples.append
    clock = perf_counter_ns
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
    """Call back to back in one thread per slot until `seconds` have passed and all slots made `min_queries` calls.

    The calls of all slots count together. Each slot ends with the call that reaches this, or that crosses `limit`
    seconds, but not before its second call.

    Returns
    -------
    completions
        int64, sorted: when each call returned, in nanoseconds from the common start. Calls that returned after the
        first slot had stopped are left out, because not all slots were busy then. `rate` makes queries per second of
        them.

    Raises
    ------
    Exception
        Whatever the call of a slot raises. It ends all slots.
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
    """Return queries per second from the completions that `throughput` returned, counted from the first one.

    Counting from there, it does not matter that all slots start together, nor that the last queries of all slots but
    one are left out.
    """
    return (len(completions) - 1) / float(completions[-1] - completions[0]) * 1e9


def in_slots(bodies: Sequence[Callable[[int, Event], None]]) -> None:
    """Run functions, each in its own thread, from a common start. The garbage collector is off.

    Each function takes the start (nanoseconds of `perf_counter_ns`) and an event. The event is set once another
    function has failed, and then the function must return. An exception of a function is raised here.
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
    """Return a pool whose threads live on, because cuDNN chooses its algorithms again in each new thread of PyTorch."""
    return ThreadPoolExecutor(count)
