"""The worker process of one candidate: `python -m tasks.candidates.worker`.

It opens a model in a runtime and answers the commands of its parent (tasks/candidates/process.py).
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tasks import runtimes
from tasks.candidates.measurement import Measurement
from tasks.candidates.process import Effort, Images, Spec
from tasks.datasets._pixels import normalise
from tasks.machine import gpu, memory, space
from tasks.machine.causes import cause
from tasks.machine.certificate import Watch
from tasks.measure import clock, scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long a scenario warms up.
WARM_UP_SECONDS = 0.5
# Before a turn, queries run uncounted for at most this long; at least one does.
TURN_WARM_UP_SECONDS = 0.01
# A scenario, and each rate that the server scenario tries, lasts at most this many times its least duration.
SCENARIO_LIMIT = 30


def _reset_peak() -> None:
    """Make the peak of resident memory start again, so that importing the library is no part of it."""
    try:
        memory.reset_peak()
    except OSError as error:
        print(f"peak memory includes importing the library: {error}", file=sys.stderr)


class Opened:
    """The model that the process has open: its inputs in memory, one session per slot, and the memory that it takes."""

    def __init__(self, **spec: Any) -> None:
        images = spec.pop("images")
        self.spec = Spec(**spec, images=Images(**images) if images else None)
        runtime = runtimes.load(self.spec.runtime)
        # What stays open as long as the process runs.
        self.resources = ExitStack()
        if self.spec.device != "cpu":
            # Starting NVML takes tens of milliseconds.
            self.resources.enter_context(gpu.nvml())
        self.before = gpu.gpu_usage(self.spec.device)
        runtime.load_library(self.spec.device)
        # What the watch imports is part of the baseline, too.
        with Watch(self.spec.device, ()):
            self.context = gpu.vram(self.spec.device, self.before)
        self.pool = np.load(self.spec.pool)
        self.pool = np.resize(self.pool, (max(len(self.pool), *self.spec.batch_sizes), *self.pool.shape[1:]))
        largest = max(*self.spec.batch_sizes, self.spec.images.batch_size if self.spec.images else 1)
        # How long the first queries of all slots took, in seconds, by batch size.
        self.first_query_seconds: dict[int, float] = {}
        self.baseline = memory.resident_bytes()
        _reset_peak()
        started = time.perf_counter()
        session = runtimes.open_model(
            self.spec.runtime,
            Path(self.spec.path),
            self.spec.device,
            largest,
            self.spec.threads,
            self.spec.slots,
            self.spec.options,
        )
        self.sessions = [session, *(session.fork() for _ in range(self.spec.slots - 1))]
        self.open_seconds = time.perf_counter() - started
        gc.collect()
        # With PyTorch imported a collection takes 0.4 s, and there is one before every measurement.
        gc.freeze()

    def start(self) -> dict[str, Any]:
        """Return the answer to "start"."""
        return {
            "provider": self.sessions[0].provider,
            "rss_baseline_bytes": self.baseline,
            "open_seconds": self.open_seconds,
        }

    def _queries(self, batch_size: int) -> list[Callable[[], object]]:
        """Return one function per slot, each call of which runs the slot's next query.

        Each slot begins with another batch of the pool.
        """
        end = len(self.pool) // batch_size * batch_size
        batches = [self.pool[start : start + batch_size] for start in range(0, end, batch_size)]

        def query_of(slot: int) -> Callable[[], object]:
            run = self.sessions[slot].run
            next_batch = islice(cycle(batches), slot, None).__next__
            return lambda: run(next_batch())

        return [query_of(slot) for slot in range(len(self.sessions))]

    def warm_up(
        self, experiment: str, batch_size: int, effort: dict[str, Any], known_pids: list[int]
    ) -> dict[str, Any]:
        """Begin a visit with its first query, which is timed by itself, and warm-up. Turns and `finish` follow.

        The answer has the `level` that warm-up reached: nanoseconds per query, or queries per second.
        """
        watch = Watch(self.spec.device, known_pids)
        visit = Measurement(experiment, batch_size, Effort(**effort), self._queries(batch_size), watch)
        self.visit = visit
        if batch_size not in self.first_query_seconds:
            started = time.perf_counter()
            for query in visit.queries:
                query()
            self.first_query_seconds[batch_size] = time.perf_counter() - started
        seconds, limit = visit.effort.warmup_seconds, visit.effort.warmup_limit
        if experiment == "latency":
            spent, stable, level = clock.warm_up(visit.queries[0], seconds, limit)
        else:
            spent, stable, level = clock.warm_up_slots(visit.queries, seconds, limit)
        visit.warm_up = {
            "warmup_seconds": spent,
            "stable": stable,
            "first_query_seconds": self.first_query_seconds[batch_size],
        }
        return {"level": level}

    def turn(self, turns: int) -> dict[str, Any]:
        """Measure for one turn of the visit, which has `turns` turns. Between two of them other candidates measure."""
        visit = self.visit
        begin = time.perf_counter()
        min_seconds = visit.effort.min_seconds / turns
        min_queries = -(-visit.effort.min_queries // turns)
        if turns > 1:
            # The candidates that were measured meanwhile have left it cold caches and sleeping threads.
            clock.measure(visit.queries[0], min(TURN_WARM_UP_SECONDS, min_seconds / 5), 1)
        limit = None
        if visit.effort.measure_limit is not None:
            # The time that a turn took too long is taken from the next one.
            so_far = visit.seconds + time.perf_counter() - begin
            limit = max(visit.effort.measure_limit * (len(visit.samples) + 1) / turns - so_far, 0.0)
        with visit.watch:
            if visit.experiment == "latency":
                samples = clock.measure(visit.queries[0], min_seconds, min_queries, limit)
            else:
                samples = clock.throughput(visit.queries, min_seconds, min_queries, limit)
        visit.samples.append(samples)
        visit.seconds += time.perf_counter() - begin
        return {}

    def finish(self, out: str) -> dict[str, Any]:
        """End the visit, write its samples to the npz file `out`, and answer with everything else about it.

        The file has `samples` (int64, nanoseconds; latency: how long each query took, throughput: when each completed),
        `turns` (int64: how many samples each turn has) and, for a latency on a GPU, `gpu` (see `_split`).
        """
        visit = self.visit
        arrays = {
            "samples": np.concatenate(visit.samples),
            "turns": np.array([len(samples) for samples in visit.samples]),
        }
        answer: dict[str, Any] = {}
        if visit.experiment == "latency" and self.sessions[0].split is not None:
            visit.queries[0]()
            started = time.perf_counter()
            arrays["gpu"] = self._split(visit.batch_size, len(arrays["samples"]))
            answer["gpu_seconds"] = time.perf_counter() - started
        answer["hurried"] = visit.hurried
        # NumPy's stub takes the arrays for savez's own options.
        np.savez(out, **arrays)  # type: ignore[arg-type]
        return answer | visit.warm_up | {"certificate": visit.watch.row()} | self._memory()

    def _split(self, batch_size: int, count: int) -> np.ndarray:
        """Return the parts of `count` queries on a GPU.

        Returns
        -------
        parts : float64, milliseconds, (count, 4): H2D, enqueue, compute and D2H of each query
        """
        starts = cycle(range(0, len(self.pool) // batch_size * batch_size, batch_size))
        split = self.sessions[0].split
        assert split is not None
        parts = [split(self.pool[start : start + batch_size]) for start in islice(starts, count)]
        return np.array(parts, np.float64)

    def _memory(self) -> dict[str, Any]:
        peak, source = gpu.vram(self.spec.device, self.before)
        return {
            "rss_peak_bytes": max(memory.peak_resident_bytes(), self.baseline),
            "vram_peak_bytes": peak,
            "vram_context_bytes": self.context[0],
            "vram_source": source,
        }

    def scenario(
        self,
        *,
        name: str,
        batch_size: int,
        seconds: float,
        limit_ms: float | None,
        highest: float | None,
        trials: int,
        seed: int,
    ) -> dict[str, Any]:
        """Measure one of LoadGen's scenarios, and answer with its rows of the table `scenarios`.

        The server scenario needs `limit_ms`, the limit of its p99, and `highest`, the queries per second that the
        offline scenario reached.
        """
        queries = self._queries(batch_size)
        # The first query of each slot runs by itself, one after the other, as in a visit.
        for query in queries:
            query()
        common: dict[str, Any] = {"batch_size": batch_size, "seconds": seconds, "limit": SCENARIO_LIMIT * seconds}
        if name == "single_stream":
            clock.warm_up(queries[0], WARM_UP_SECONDS)
            return {"rows": [scenarios.single_stream(queries[0], **common)]}
        clock.warm_up_slots(queries, WARM_UP_SECONDS)
        if name == "offline":
            return {"rows": [scenarios.offline(queries, **common)]}
        assert limit_ms is not None and highest is not None
        return {"rows": scenarios.server_capacity(queries, limit_ms, highest, trials=trials, seed=seed, **common)[1]}

    def evaluate(self, out: str) -> dict[str, Any]:
        """Write the logits of the images, float32 (images, classes), to the npy file `out`.

        They come from the session that is timed.
        """
        assert self.spec.images is not None
        wanted = self.spec.images
        images = np.load(wanted.images, mmap_mode="r")
        rows = np.load(wanted.rows)
        run = self.sessions[0].run
        logits = []
        for start in range(0, len(rows), wanted.batch_size):
            batch = images[rows[start : start + wanted.batch_size]]
            logits.append(run(normalise(batch, wanted.mean, wanted.std)))
        np.save(out, np.concatenate(logits).astype(np.float32, copy=False))
        return {}


def _commands() -> Iterator[dict[str, Any]]:
    """Yield the messages of the parent. The end of stdin ends the process, also in the middle of a command."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield messages.get()


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    """Send an answer to the parent."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _folders(message: dict[str, Any]) -> list[Path]:
    """Return the folders whose disk may be full when a command fails.

    They are the folder of the command's output, and the folder of the pool, in which the log and compiled code lie too.
    """
    return [Path(message[key]).parent for key in ("out", "pool") if key in message]


def main() -> None:
    """Answer commands until stdin ends. An exception is an answer, too; after a failed start the process ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print to stdout must not mix with the answers: it goes to the log.
    os.dup2(2, 1)
    opened: Opened | None = None
    for message in _commands():
        command = message.pop("command")
        try:
            if opened is None:
                opened = Opened(**message)
                _answer(answers, opened.start())
            else:
                _answer(answers, getattr(opened, command)(**message))
        except Exception as error:
            full = space.full_disk(error, *_folders(message))
            _answer(
                answers,
                {"error": str(full) if full else f"{type(error).__name__}: {cause(error)}", "full": full is not None},
            )
            # This comes last, because it goes to a file, for which there may be no room.
            traceback.print_exc()
            if opened is None:
                sys.exit(1)


if __name__ == "__main__":
    main()
