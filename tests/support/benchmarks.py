"""Quick benchmarks with the runtime in tests/programs/plugins/fake.py, and what they leave."""

from __future__ import annotations

from typing import Any

import polars as pl
import psutil

from tasks.caching.work import Work
from tasks.records import Benchmark, Measured
from tests.support.paths import ROOT

PLUGINS = ROOT / "tests" / "programs" / "plugins"
"""Folder of the fake runtime. In PYTHONPATH it makes the runtime known to the processes that are started."""
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
    """Quick settings with the fake runtime, which the record itself would refuse."""
    return QUICK.model_copy(update={"runtimes": ("fake",), "devices": ("cpu",)} | changes)


def read_table(work: Work, measured: Measured, table: str) -> pl.DataFrame:
    return pl.read_parquet(work.store.get(measured.tables[table]))


def worker_pids() -> set[int]:
    """Candidates' processes that run below this one."""
    return {
        p.pid for p in psutil.Process().children(recursive=True) if "tasks.candidates.worker" in " ".join(p.cmdline())
    }
