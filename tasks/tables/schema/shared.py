"""Columns that several tables share."""

from __future__ import annotations

from tasks.tables.schema.column import count, number, share, text

STATUS = ("ok", "failed", "skipped")
WHICH = {
    "variant": text("name of the variant"),
    "runtime": text("runtime that executed it"),
    "device": text("cpu or cuda:N"),
}
BATCH = {"batch_size": count("images per query", low=1)}
OUTCOME = {
    "status": text("ok, failed or skipped", *STATUS),
    "error": text("why status is failed or skipped; null where it is ok", null=True),
}
QUALITY = {
    "top1": share("share of images whose most probable class is right", null=True),
    "top1_low": share("end of the 95 % interval of top1 (Wilson)", null=True),
    "top1_high": share("end of the 95 % interval of top1 (Wilson)", null=True),
    "top5": share("share of images whose five most probable classes include the right one", null=True),
    "macro_f1": share("F1 averaged over the classes", null=True),
    "macro_f1_low": share("end of the 95 % interval of macro_f1 (bootstrap over images)", null=True),
    "macro_f1_high": share("end of the 95 % interval of macro_f1 (bootstrap over images)", null=True),
}
INTERVALS = {
    "mean": "batch means",
    "median": "order statistics",
    "p90": "order statistics",
    "p95": "order statistics",
    "p99": "order statistics",
}
"""Figure -> how its 99 % interval is computed."""
SPREAD = {
    "mean_ms": number("mean of all samples", null=True),
    "std_ms": number("standard deviation of all samples", null=True),
    "min_ms": number("smallest sample", null=True),
    "median_ms": number("median sample", null=True),
    "p90_ms": number("90th percentile, null below 64 samples", null=True),
    "p95_ms": number("95th percentile, null below 130 samples", null=True),
    "p99_ms": number("99th percentile, null below 662 samples", null=True),
    "max_ms": number("largest sample", null=True),
}
SPREAD_ORDER = (("min_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"), ("min_ms", "mean_ms", "max_ms"))
LATENCY = {f"latency_{key}": column for key, column in SPREAD.items()} | {
    f"latency_{figure}_{end}_ms": number(f"end of the 99 % interval of the {figure} ({method})", null=True)
    for figure, method in INTERVALS.items()
    for end in ("low", "high")
}
LATENCY_ORDER = (
    *(tuple(f"latency_{figure}" for figure in chain) for chain in SPREAD_ORDER),
    *((f"latency_{figure}_low_ms", f"latency_{figure}_ms", f"latency_{figure}_high_ms") for figure in INTERVALS),
)
EXPERIMENT = {"experiment": text("experiment that was measured", "latency", "throughput")}
