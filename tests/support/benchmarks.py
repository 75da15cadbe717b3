"""Settings of quick benchmarks with the fake runtime in tests/programs/plugins/fake.py; reads their tables."""

from __future__ import annotations

from typing import Any

import polars as pl
import psutil

from tasks.caching.work import Work
from tasks.records import Benchmark, Measured
from tests.support.paths import ROOT

PLUGINS = ROOT / "tests" / "programs" / "plugins"
"""Folder of the fake runtime. A process that has it in PYTHONPATH can load the runtime."""
QUICK = Benchmark(
    runtimes=("eager", "torchscript", "onnxruntime", "openvino", "tensorrt"),
    rounds=2,
    processes=1,
    batch_sizes=(1, 4),
    throughput=False,
    warmup_seconds=0.1,
    min_seconds=0.01,
    min_queries=64,
    threads=1,
)


def settings(**changes: Any) -> Benchmark:
    """Return quick settings with the fake runtime, a name that validation of the record would refuse."""
    return QUICK.model_copy(update={"runtimes": ("fake",), "devices": ("cpu",)} | changes)


def read_table(work: Work, measured: Measured, table: str) -> pl.DataFrame:
    return pl.read_parquet(work.store.get(measured.tables[table]))


def living_worker_pids() -> set[int]:
    """Return the process ids of all workers below this process."""
    return {
        p.pid for p in psutil.Process().children(recursive=True) if "tasks.candidates.worker" in " ".join(p.cmdline())
    }
