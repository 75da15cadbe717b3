"""The scenarios of MLPerf's LoadGen: single stream, offline and server. No runtime is known: a query is a function.

Sources: Reddi et al. 2020, MLPerf Inference Benchmark, and mlcommons/inference/loadgen (results.cc, early_stopping.cc).
Rates are queries per second. The caller warms up. Each result is a row of the table `scenarios`.
"""

from __future__ import annotations

import math
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.measure import clock, intervals
from tasks.measure.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

# For this long before an arrival the clock is polled, because sleeping ends up to about 0.1 ms late.
SPIN_NS = 500_000
# From this many queries on, p99 can be reported.
QUERIES = intervals.queries_needed(99)


def tail(latencies_ms: np.ndarray, percentile: int) -> float | None:
    """Return LoadGen's early stopping estimate of a percentile: an upper bound at 99 % confidence.

    It is the t-th largest of n samples, where t is the largest number such that with a probability of 1 % at most, only
    t or fewer of n queries exceed the true percentile. Where even t = 1 is too many, it is None (below 64 queries for
    p90 and 662 for p99). The estimate is above the nearest-rank percentile and approaches it as queries become more.
    Queries are taken to be independent.
    """
    n = len(latencies_ms)
    if n < intervals.queries_needed(percentile):
        return None
    counts, cumulative = intervals.binomial(n, 1 - percentile / 100)
    t = int(counts[0] + np.searchsorted(cumulative, 1 - intervals.CONFIDENCE, side="right")) - 1
    return float(np.partition(latencies_ms, n - t)[n - t])


def single_stream(
    query: Callable[[], object],
    *,
    batch_size: int = 1,
    seconds: float,
    min_queries: int = QUERIES,
    limit: float | None = None,
) -> dict[str, Any]:
    """Send one query after the other, each when the last has returned. The figure is p90, as `tail` estimates it.

    Parameters
    ----------
    seconds, min_queries, limit
        As in `clock.measure`.
    """
    samples = clock.measure(query, seconds, min_queries, limit)
    spent = float(samples.sum()) / 1e9
    return _row("single_stream", 1, batch_size, None, len(samples) / spent, spent, samples / 1e6)


def offline(
    call_of_slot: Sequence[Callable[[], object]],
    *,
    batch_size: int = 1,
    seconds: float,
    min_queries: int = 64,
    limit: float | None = None,
) -> dict[str, Any]:
    """Serve queries that are all there from the start. The figure is images per second; a query has no latency.

    Parameters
    ----------
    call_of_slot
        One function per query in flight, each called in a thread of its own.
    seconds, min_queries, limit
        As in `clock.throughput`.
    """
    ends = clock.throughput(call_of_slot, seconds, min_queries, limit)
    row = _row("offline", len(call_of_slot), batch_size, None, clock.rate(ends), ends[-1] / 1e9, None)
    return row | {"queries": len(ends)}


def server(
    query_of_slot: Sequence[Callable[[], object]],
    rate: float,
    limit_ms: float,
    *,
    seed: int = 0,
    batch_size: int = 1,
    seconds: float,
    min_queries: int = QUERIES,
    limit: float | None = None,
) -> dict[str, Any]:
    """Serve queries that arrive at random, on average `rate` per second. The figure is whether p99 keeps a limit.

    The gaps between arrivals are exponential (a Poisson process). Arrivals wait in one queue, first come first served,
    until a slot is free, and a latency counts from the scheduled arrival. The limit is kept where the p99 of `tail` is
    within it, which is LoadGen's early stopping, stricter by one query. (LoadGen, too, takes queries to be independent,
    although those that wait behind one another are not.)

    Parameters
    ----------
    query_of_slot
        One function per query in flight, each called in a thread of its own.
    rate
        Arrivals per second.
    limit_ms
        The limit for p99.
    seed
        What seeds the arrivals (tasks/measure/seeds.py).
    seconds, min_queries
        Arrivals are scheduled for at least this long, and at least this many.
    limit
        Seconds from the start after which nothing arrives and no query is started.
    """
    count = max(min_queries, math.ceil(rate * seconds))
    arrivals = np.cumsum(generator(seed).exponential(1 / rate, count)) * 1e9
    if limit is not None:
        arrivals = arrivals[: max(1, int(np.searchsorted(arrivals, limit * 1e9)))]
    _, ends = serve(query_of_slot, arrivals.astype(np.int64), limit)
    served = ends > 0
    latencies = (ends - arrivals)[served] / 1e6
    spent = float(ends.max()) / 1e9
    row = _row("server", len(query_of_slot), batch_size, rate, len(latencies) / spent, spent, latencies)
    p99 = row["latency_p99_ms"]
    late = int((~served).sum())
    note = None
    if late:
        note = f"{late} of {len(arrivals)} queries were still waiting after {limit:g} s"
    elif p99 is None:
        note = f"{len(latencies)} queries do not support p99, which takes {QUERIES}"
    return row | {"limit_ms": limit_ms, "kept": note is None and p99 <= limit_ms, "note": note}


def server_capacity(
    query_of_slot: Sequence[Callable[[], object]],
    limit_ms: float,
    highest: float,
    *,
    trials: int = 6,
    seed: int = 0,
    batch_size: int = 1,
    seconds: float,
    min_queries: int = QUERIES,
    limit: float | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """Find the highest rate at which p99 keeps a limit, by bisection between 0 and `highest`.

    Before that, queries are timed without any queue. If their p99 exceeds the limit, no rate keeps it.

    Parameters
    ----------
    highest
        Queries per second that no server can exceed: the rate that `offline` achieved.
    trials
        Number of rates to try. The answer is exact to `highest` / 2 ** trials.
    limit
        Seconds per trial, at most.

    Returns
    -------
    rate
        Queries per second. It is 0 if none of the rates keeps the limit.
    rows
        One row per trial. If even a single query exceeds the limit, one row without a rate, whose note says so.
    """
    alone = clock.measure(query_of_slot[0], 0, min_queries, limit) / 1e6
    p99 = tail(alone, 99)
    if (p99 if p99 is not None else float(np.median(alone))) > limit_ms:
        row = _row("server", len(query_of_slot), batch_size, None, None, float(alone.sum()) / 1e3, alone)
        figure = "p99" if p99 is not None else "the median"
        note = f"no rate keeps the limit: {figure} of a query without any other is {p99 or np.median(alone):.4g} ms"
        return 0.0, [row | {"limit_ms": limit_ms, "kept": False, "note": note}]
    rows: list[dict[str, Any]] = []
    best = 0.0
    above = highest
    for trial in range(trials):
        rate = (best + above) / 2
        rows.append(
            server(
                query_of_slot,
                rate,
                limit_ms,
                seed=seed + trial,
                batch_size=batch_size,
                seconds=seconds,
                min_queries=min_queries,
                limit=limit,
            )
        )
        best, above = (rate, above) if rows[-1]["kept"] else (best, rate)
    return best, rows


def capacity(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the result of the server scenario as a sentence. None means that this scenario did not run.

    `rows` are those of the table `scenarios`.
    """
    tried = [row for row in rows if row["scenario"] == "server"]
    if not tried:
        return None
    limit = f"a p99 of {tried[0]['limit_ms']:.3g} ms"
    best = max((row["target_rate"] for row in tried if row["kept"]), default=None)
    if best is not None:
        return f"Server: {best:.3g} queries per second is the highest rate tried that kept the limit, {limit}."
    lowest = min((row["target_rate"] for row in tried if row["target_rate"]), default=None)
    if lowest is None:
        return f"Server: no rate of queries can keep the limit, {limit}, because one query alone takes longer."
    return (
        f"Server: none of the {len(tried)} rates tried, from {lowest:.3g} queries per second on, kept the limit, "
        f"{limit}."
    )


def serve(
    query_of_slot: Sequence[Callable[[], object]], arrivals: np.ndarray, limit: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Serve queries that arrive at scheduled times (nanoseconds from the start, ascending), first come first served.

    A free slot takes the next arrival and waits for it: it sleeps until 0.5 ms before, and then polls the clock without
    keeping Python's lock. So the queue needs no thread of its own, and no query is handed from thread to thread.

    Returns
    -------
    starts, ends
        int64, nanoseconds from the start, one per arrival. Both are 0 for an arrival that was still waiting after
        `limit` seconds. The first arrival is always served.

    Raises
    ------
    Exception
        Whatever a query raises. It ends all slots.
    """
    starts = np.zeros_like(arrivals)
    ends = np.zeros_like(arrivals)
    # This iterator is written in C, so each of its items goes to exactly one thread.
    queue = enumerate(arrivals.tolist())
    last = math.inf if limit is None else limit * 1e9

    def slot(query: Callable[[], object]) -> Callable[[int, Event], None]:
        def body(begin: int, stop: Event) -> None:
            for number, arrival in queue:
                _wait(begin + arrival)
                now = perf_counter_ns() - begin
                if stop.is_set() or (now > last and number):
                    return
                query()
                ends[number] = perf_counter_ns() - begin
                starts[number] = now

        return body

    clock.in_slots([slot(query) for query in query_of_slot])
    return starts, ends


def _wait(until: int) -> None:
    """Wait until the clock `perf_counter_ns` shows `until`."""
    remaining = until - perf_counter_ns()
    if remaining > SPIN_NS:
        sleep((remaining - SPIN_NS) / 1e9)
    while perf_counter_ns() < until:
        # This lets other threads have Python's lock.
        sleep(0)


def _row(
    scenario: str,
    slots: int,
    batch_size: int,
    target: float | None,
    achieved: float | None,
    seconds: float,
    latencies_ms: np.ndarray | None,
) -> dict[str, Any]:
    """Return a row of the table `scenarios`. Columns that the scenario does not have are None."""
    row: dict[str, Any] = {
        "scenario": scenario,
        "slots": slots,
        "batch_size": batch_size,
        "target_rate": target,
        "achieved_rate": achieved,
        "images_per_second": None if achieved is None else achieved * batch_size,
        "seconds": float(seconds),
    }
    row |= dict.fromkeys(("latency_median_ms", "latency_p90_ms", "latency_p99_ms", "limit_ms", "kept", "note"))
    if latencies_ms is not None:
        row["queries"] = len(latencies_ms)
        row["latency_median_ms"] = intervals.percentile(latencies_ms, 50)
        row |= {f"latency_p{p}_ms": tail(latencies_ms, p) for p in (90, 99)}
    return row
