"""The summary as study S2's CSV file, and the same with its doubtful rows marked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.tables.summary import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


CSV_COLUMNS = (
    "model_name",
    "batch_size",
    "optimization_technique",
    "device",
    "model_size_mb",
    "accuracy_top_1",
    "accuracy_top_5",
    "ram_usage_mb",
    "vram_usage_mb",
    "latency_ms_per_batch",
    "throughput_samples_per_sec",
)
MARKED = "benchmark_results_marked.csv"
"""File of the rows whose times benchmark_results.csv leaves empty."""


def technique(row: Mapping[str, Any]) -> str:
    """What was done to the model in plain words, e.g. "pruning 0.25 + ONNX int8 u8s8 (onnxruntime)"."""
    steps = [f"pruning {ratio}" for ratio in re.findall(r"/prune-([\d.]+)", row["variant"])]
    form = {"onnx": "ONNX", "torchscript": "TorchScript", "engine": "TensorRT engine"}.get(row["format"])
    if form:
        setting = (row["setting"] or "").removeprefix("int8-") if row["precision"] == "int8" else ""
        precision = "" if row["precision"] == "fp32" else row["precision"]
        steps.append(" ".join(dict.fromkeys(w for w in (form, precision, setting) if w)))
    return f"{' + '.join(steps) or 'none'} ({row['runtime']})"


def rate_column(rows: Iterable[Mapping[str, Any]]) -> str:
    """The column that all rows' samples a second come from: `throughput` (several queries in flight) where the run
    measured it, else `images_per_second` (one). The two are different measurements and never mixed."""
    return "throughput" if any(row["throughput"] is not None for row in rows) else "images_per_second"


def csv(summary: pl.DataFrame) -> str:
    """The view of the summary with the columns of study S2 (MB: 10^6 bytes; accuracy in percent; latency: the mean;
    throughput: `rate_column`).

    Rows that are not ok have empty figures, and so has a throughput that was not measured where others were. Times that
    were measured under bad conditions are empty: `marked_csv` has them.
    """
    rows = summary.to_dicts()
    return _csv([_csv_line(row, rate_column(rows)) for row in rows])


def marked_csv(summary: pl.DataFrame) -> str | None:
    """The rows whose times `csv` leaves empty, with these times and what was bad about them; None where there are
    none."""
    rows = summary.to_dicts()
    rate = rate_column(rows)
    lines = [
        (*_csv_line(row, rate, trusted=False), "; ".join(dict.fromkeys(filter(None, _marks(row, rate)))))
        for row in rows
        if any(_marks(row, rate))
    ]
    return _csv(lines, "conditions") if lines else None


def _marks(row: Row, rate: str) -> tuple[str | None, str | None]:
    """What was bad about the measurement of the latency and of the samples a second; None: nothing."""
    return row["conditions"], row.get("throughput_conditions") if rate == "throughput" else row["conditions"]


def _csv(lines: list[tuple[Any, ...]], *more: str) -> str:
    types = [pl.String, pl.Int64, pl.String, pl.String] + [pl.Float64] * 7 + [pl.String] * len(more)
    return pl.DataFrame(lines, schema=dict(zip((*CSV_COLUMNS, *more), types, strict=True)), orient="row").write_csv()


def _csv_line(row: Row, rate: str, *, trusted: bool = True) -> tuple[Any, ...]:
    """The figures of a row; `trusted`: without times that were measured under bad conditions."""

    def mb(value: int | None) -> float | None:
        return None if value is None else round(value / 1e6, 4)

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 4)

    slow, few = (trusted and mark is not None for mark in _marks(row, rate))
    figures = (
        mb(row["size_bytes"]),
        percent(row["top1"]),
        percent(row["top5"]),
        mb(row["ram_usage_bytes"]),
        mb(row["vram_peak_bytes"]),
        None if slow else row["latency_mean_ms"],
        None if few else row[rate],
    )
    which = (row["model"], row["batch_size"], technique(row), row["device"])
    return (*which, *(figures if row["status"] == "ok" else [None] * len(figures)))
