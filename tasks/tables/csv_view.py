"""The summary as a CSV file with the columns of study S2, and a second file of the rows with doubtful times."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.tables.rule import Row

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
"""Name of the file with the rows whose times benchmark_results.csv leaves empty."""


def technique(row: Mapping[str, Any]) -> str:
    """Return what was done to the model in words, e.g. "pruning 0.25 + ONNX int8 u8s8 (onnxruntime)"."""
    steps = [f"pruning {ratio}" for ratio in re.findall(r"/prune-([\d.]+)", row["variant"])]
    form = {"onnx": "ONNX", "torchscript": "TorchScript", "engine": "TensorRT engine"}.get(row["format"])
    if form:
        setting = (row["setting"] or "").removeprefix("int8-") if row["precision"] == "int8" else ""
        precision = "" if row["precision"] == "fp32" else row["precision"]
        steps.append(" ".join(dict.fromkeys(word for word in (form, precision, setting) if word)))
    return f"{' + '.join(steps) or 'none'} ({row['runtime']})"


def rate_column(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the column that holds the samples per second of all rows.

    It is `throughput` (several queries in flight) where the run measured it, else `images_per_second` (one query in
    flight). The two are different measurements, so they are never mixed.
    """
    return "throughput" if any(row["throughput"] is not None for row in rows) else "images_per_second"


def csv(summary: pl.DataFrame) -> str:
    """Return the summary as CSV with the columns of study S2.

    Sizes and memory are in MB (10^6 bytes), accuracy is in per cent, the latency is the mean, and samples per second
    come from `rate_column`. A row that is not ok has no figures. A throughput is empty where it was not measured but
    others were. Times that were measured under bad conditions are empty; `marked_csv` has them.
    """
    rows = summary.to_dicts()
    rate = rate_column(rows)
    return _csv([_csv_line(row, rate, with_marked=False) for row in rows])


def marked_csv(summary: pl.DataFrame) -> str | None:
    """Return the rows whose times `csv` leaves empty, with these times and their conditions; None without such rows."""
    rows = summary.to_dicts()
    rate = rate_column(rows)
    lines = []
    for row in rows:
        conditions = [mark for mark in _marks(row, rate) if mark]
        if conditions:
            lines.append((*_csv_line(row, rate, with_marked=True), "; ".join(dict.fromkeys(conditions))))
    return _csv(lines, "conditions") if lines else None


def _marks(row: Row, rate: str) -> tuple[str | None, str | None]:
    """Return the conditions of a row's latency and those of its samples per second. None means that nothing was bad."""
    return row["conditions"], row.get("throughput_conditions") if rate == "throughput" else row["conditions"]


def _csv(lines: list[tuple[Any, ...]], *more: str) -> str:
    """Return lines as CSV with a header. `more` are columns of text after those of study S2."""
    types = [pl.String, pl.Int64, pl.String, pl.String] + [pl.Float64] * 7 + [pl.String] * len(more)
    return pl.DataFrame(lines, schema=dict(zip((*CSV_COLUMNS, *more), types, strict=True)), orient="row").write_csv()


def _csv_line(row: Row, rate: str, *, with_marked: bool) -> tuple[Any, ...]:
    """Return the values of `CSV_COLUMNS`. Times measured under bad conditions are None unless `with_marked`."""
    place = (row["model"], row["batch_size"], technique(row), row["device"])
    if row["status"] != "ok":
        return (*place, *[None] * (len(CSV_COLUMNS) - len(place)))
    latency_marked, rate_marked = (mark is not None for mark in _marks(row, rate))
    return (
        *place,
        _mb(row["size_bytes"]),
        _percent(row["top1"]),
        _percent(row["top5"]),
        _mb(row["ram_usage_bytes"]),
        _mb(row["vram_peak_bytes"]),
        row["latency_mean_ms"] if with_marked or not latency_marked else None,
        row[rate] if with_marked or not rate_marked else None,
    )


def _mb(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1e6, 4)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)
