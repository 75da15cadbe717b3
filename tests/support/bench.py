"""Makes up rows of the tables that `burnish bench` fills and shows."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.tables import frames


def latency_row(variant: str, runtime: str, batch_size: int, ms: float | None, **others: Any) -> dict[str, Any]:
    """Return a row of `benchmarks` with this median latency in milliseconds, or a failed row where `ms` is None."""
    row: dict[str, Any] = {
        "variant": variant,
        "runtime": runtime,
        "device": "cpu",
        "batch_size": batch_size,
        "threads": 2,
    }
    if ms is None:
        return row | {"status": "failed", "error": "Fail: no such operator"}
    times = {"median": 1, "median_low": 0.98, "median_high": 1.02, "mean": 1, "p90": 1.1, "p99": 1.3}
    figures = {f"latency_{name}_ms": ms * factor for name, factor in times.items()}
    return (
        row
        | figures
        | {
            "status": "ok",
            "error": None,
            "conditions": None,
            "images_per_second": 1000 / ms,
            "turn_medians_ms": [ms, ms * 1.01, ms * 0.99, ms],
            "round_turns": [1, 1, 1, 1],
            "first_query_seconds": 0.012,
            "process_std_ms": ms / 50,
            "rounds": 4,
        }
        | others
    )


def measured_tables(*rows: dict[str, Any]) -> dict[str, pl.DataFrame]:
    return {"benchmarks": frames.frame("benchmarks", list(rows)), "throughputs": frames.frame("throughputs", [])}
