"""A candidate's process: `python -m tasks.candidates.worker` opens a model in a runtime and answers
tasks/candidates/process.py's commands."""

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
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tasks import runtimes
from tasks.candidates.process import Effort, Images, Spec
from tasks.datasets._pixels import normalise
from tasks.machine import gpu, space
from tasks.machine.causes import cause
from tasks.machine.certificate import Watch
from tasks.measure import clock, scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# of a scenario
WARM_UP_SECONDS = 0.5
# of warm-up before a turn, at most; at least one query
AGAIN_SECONDS = 0.01
# a scenario, and each rate that the server tries, lasts at most so many times its least duration
SCENARIO_LIMIT = 30


def _resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS (now) or VmHWM (the most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _reset_peak() -> None:
    """Make VmHWM start again from VmRSS."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"peak memory includes importing the library: {error}", file=sys.stderr)


@dataclass
class Measurement:
    """A batch size that is being measured."""

    experiment: str
    batch_size: int
    effort: Effort
    queries: list[Callable[[], object]]
    """A function a slot: its next query."""
    watch: Watch
    warmed: dict[str, Any] = field(default_factory=dict)
    samples: list[np.ndarray] = field(default_factory=list)
    """Of each turn, int64 nanoseconds."""
    spent: float = 0.0
    """Seconds in turns."""

    @property
    def hurried(self) -> bool:
        """Whether the limit on its time left it less warm-up, time or queries than it should have had."""
        how = self.effort
        short = (
            self.warmed["warmup_seconds"] < how.warmup_seconds
            or self.spent < how.min_seconds
            or sum(map(len, self.samples)) < how.min_queries
        )
        return how.limit is not None and short


class Opened:
    """The opened model in the process: inputs in memory, a session a query in flight, the peak of memory."""

    def __init__(self, **spec: Any) -> None:
        images = spec.pop("images")
        self.spec = Spec(**spec, images=Images(**images) if images else None)
        runtime = runtimes.load(self.spec.runtime)
        self.held = ExitStack()
        if self.spec.device != "cpu":
            # stays open: to start it takes tens of milliseconds
            self.held.enter_context(gpu.nvml())
        self.before = gpu.gpu_usage(self.spec.device)
        runtime.load_library(self.spec.device)
        # what it imports is part of the baseline
        with Watch(self.spec.device, ()):
            self.context = gpu.vram(self.spec.device, self.before)
        self.pool = np.load(self.spec.pool)
        self.pool = np.resize(self.pool, (max(len(self.pool), *self.spec.batch_sizes), *self.pool.shape[1:]))
        largest = max(*self.spec.batch_sizes, self.spec.images.batch_size if self.spec.images else 1)
        self.first: dict[int, float] = {}
        self.baseline = _resident("VmRSS")
        _reset_peak()
        started = time.perf_counter()
        session = runtime.open(Path(self.spec.path), self.spec.device, largest, self.spec.threads, self.spec.slots)
        self.sessions = [session, *(session.fork() for _ in range(self.spec.slots - 1))]
        self.open_seconds = time.perf_counter() - started
        gc.collect()
        # with PyTorch imported a collection takes 0.4 s, and there is one before every measurement
        gc.freeze()

    def start(self) -> dict[str, Any]:
        """The answer to "start"."""
        return {
            "provider": self.sessions[0].provider,
            "rss_baseline_bytes": self.baseline,
            "open_seconds": self.open_seconds,
        }

    def _queries(self, batch_size: int) -> list[Callable[[], object]]:
        """A function a slot: its next query. Slots start at different batches of the pool."""
        whole = len(self.pool) // batch_size * batch_size
        batches = [self.pool[i : i + batch_size] for i in range(0, whole, batch_size)]

        def query(slot: int) -> Callable[[], object]:
            run, following = self.sessions[slot].run, islice(cycle(batches), slot, None).__next__
            return lambda: run(following())

        return [query(slot) for slot in range(len(self.sessions))]

    def warm_up(self, experiment: str, batch_size: int, effort: dict[str, Any], own: list[int]) -> dict[str, Any]:
        """Begin a visit of one batch size: the first query, timed apart, and warm-up (whose `level` is told). Turns and
        `finish` follow.
        """
        self.visit = visit = Measurement(
            experiment, batch_size, Effort(**effort), self._queries(batch_size), Watch(self.spec.device, own)
        )
        how, queries = visit.effort, visit.queries
        if batch_size not in self.first:
            started = time.perf_counter()
            for query in queries:
                query()
            self.first[batch_size] = time.perf_counter() - started
        if experiment == "latency":
            spent, stable, level = clock.warm_up(queries[0], how.warmup_seconds, how.warmup_limit)
        else:
            spent, stable, level = clock.warm_up_slots(queries, how.warmup_seconds, how.warmup_limit)
        visit.warmed = {"warmup_seconds": spent, "stable": stable, "first_query_seconds": self.first[batch_size]}
        return {"level": level}

    def turn(self, turns: int) -> dict[str, Any]:
        """Measure one of so many turns of the visit; in between other candidates have theirs."""
        visit = self.visit
        how, begin, limit = visit.effort, time.perf_counter(), None
        share = how.min_seconds / turns, -(-how.min_queries // turns)
        # what was measured meanwhile has left it cold caches and sleeping threads
        if turns > 1:
            clock.measure(visit.queries[0], min(AGAIN_SECONDS, share[0] / 5), 1)
        # what a turn overran is taken from the next one
        if how.measure_limit is not None:
            so_far = visit.spent + time.perf_counter() - begin
            limit = max(how.measure_limit * (len(visit.samples) + 1) / turns - so_far, 0.0)
        with visit.watch:
            if visit.experiment == "latency":
                visit.samples.append(clock.measure(visit.queries[0], *share, limit))
            else:
                visit.samples.append(clock.throughput(visit.queries, *share, limit))
        visit.spent += time.perf_counter() - begin
        return {}

    def finish(self, out: str) -> dict[str, Any]:
        """End the visit. The npz file `out` gets int64 nanoseconds: `samples` (latency: durations, throughput:
        completions since the start), `turns` (samples of each turn) and on a GPU `gpu`, float64 ms (queries, 4): H2D,
        enqueue, compute, D2H.
        """
        visit = self.visit
        arrays, answer = {"samples": np.concatenate(visit.samples)}, {}
        arrays["turns"] = np.array([len(samples) for samples in visit.samples])
        if visit.experiment == "latency" and self.sessions[0].split is not None:
            visit.queries[0]()
            started = time.perf_counter()
            arrays["gpu"] = self._split(visit.batch_size, len(arrays["samples"]))
            answer["gpu_seconds"] = time.perf_counter() - started
        answer["hurried"] = visit.hurried
        np.savez(out, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its own options
        return answer | visit.warmed | {"certificate": visit.watch.row()} | self._memory()

    def _split(self, batch_size: int, count: int) -> np.ndarray:
        """The parts of `count` queries on a GPU: float64 ms, (count, 4)."""
        batches = cycle(range(0, len(self.pool) // batch_size * batch_size, batch_size))
        split = self.sessions[0].split
        assert split is not None
        return np.array([split(self.pool[i : i + batch_size]) for i in islice(batches, count)], np.float64)

    def _memory(self) -> dict[str, Any]:
        peak, source = gpu.vram(self.spec.device, self.before)
        return {
            "rss_peak_bytes": max(_resident("VmHWM"), self.baseline),
            "vram_peak_bytes": peak,
            "vram_context_bytes": self.context[0],
            "vram_source": source,
        }

    def scenario(
        self,
        name: str,
        batch_size: int,
        seconds: float,
        limit_ms: float | None,
        highest: float | None,
        trials: int,
        seed: int,
    ) -> dict[str, Any]:
        """Rows of `scenarios`. Server takes `limit_ms` and, from offline, `highest` queries a second."""
        queries = self._queries(batch_size)
        # the first of each slot, one after the other, as in a visit
        for query in queries:
            query()
        how: dict[str, Any] = {"batch_size": batch_size, "seconds": seconds, "limit": SCENARIO_LIMIT * seconds}
        if name == "single_stream":
            clock.warm_up(queries[0], WARM_UP_SECONDS)
            return {"rows": [scenarios.single_stream(queries[0], **how)]}
        clock.warm_up_slots(queries, WARM_UP_SECONDS)
        if name == "offline":
            return {"rows": [scenarios.offline(queries, **how)]}
        assert limit_ms is not None and highest is not None
        return {"rows": scenarios.server_capacity(queries, limit_ms, highest, trials=trials, seed=seed, **how)[1]}

    def evaluate(self, out: str) -> dict[str, Any]:
        """Logits of the images, through the session that is timed, to the npy file `out`."""
        assert self.spec.images is not None
        asked = self.spec.images
        images, rows, step = np.load(asked.images, mmap_mode="r"), np.load(asked.rows), asked.batch_size
        run = self.sessions[0].run
        logits = [run(normalise(images[rows[i : i + step]], asked.mean, asked.std)) for i in range(0, len(rows), step)]
        np.save(out, np.concatenate(logits).astype(np.float32, copy=False))
        return {}


def _commands() -> Iterator[dict[str, Any]]:
    """Messages from the parent. The end of stdin ends the process, also in the middle of a command."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield messages.get()


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _folders(message: dict[str, Any]) -> list[Path]:
    """Folders that a command writes to."""
    return [Path(message[key]).parent for key in ("out", "pool") if key in message]


def main() -> None:
    """Answer commands until stdin ends; an exception is an answer too, a failed start is the last one."""
    answers = os.fdopen(os.dup(1), "w")
    # what libraries print must not mix with the answers
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
            full = space.found(error, *_folders(message))
            _answer(
                answers,
                {"error": str(full) if full else f"{type(error).__name__}: {cause(error)}", "full": full is not None},
            )
            # last: it goes to a file, for which there may be no room
            traceback.print_exc()
            if opened is None:
                sys.exit(1)


if __name__ == "__main__":
    main()
