"""Columns of the report's tables: the header, the unit, the key of the row, and how a value is written for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec = tuple[str, str, str, Callable[[Any], str]]
"""A column: header, unit, key of the row, and what writes its value (`str` for a column of text)."""


def mb(value: float) -> str:
    """Return bytes as megabytes (10^6), or a count in millions."""
    return sig(value / 1e6)


def count(value: float) -> str:
    """Return a whole number with a narrow space between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def share(value: float) -> str:
    """Return a share with three decimals."""
    return f"{value:.3f}"


def yes(value: bool) -> str:
    """Return "yes" or "no"."""
    return "yes" if value else "no"


VARIANT: Spec = ("Variant", "", "name", str)
STATUS: Spec = ("Status", "", "status", str)
SIZE: Spec = ("Size", "MB", "size_bytes", mb)
F1: Spec = ("Validation macro F1", "share", "validation_macro_f1", share)
HELD_OUT: Spec = ("Held-out macro F1", "share", "held_out", share)
GOES_ON: Spec = ("Used further", "", "benchmark", yes)
SUMMARY: list[Spec] = [
    ("Variant", "", "variant", str),
    ("Runtime", "", "runtime", str),
    ("Device", "", "device", str),
    ("Batch", "images", "batch_size", count),
    ("Median", "ms", "latency_median_ms", sig),
    ("Speed-up", "×", "speedup", sig),
    # What makes a row's figures doubtful stands beside them, where a page of 1,200 pixels shows it.
    STATUS,
    ("p90", "ms", "latency_p90_ms", sig),
    ("Rate", "images/s", "images_per_second", sig),
    ("Throughput", "images/s", "throughput", sig),
    ("Top-1", "share", "top1", share),
    ("Top-5", "share", "top5", share),
    ("Macro F1", "share", "macro_f1", share),
    ("Drop", "share", "drop", share),
    SIZE,
    ("RAM", "MB", "ram_usage_bytes", mb),
    ("VRAM", "MB", "vram_peak_bytes", mb),
]
PLACE: list[Spec] = [
    ("Variant", "", "variant", str),
    ("Runtime", "", "runtime", str),
    ("Device", "", "device", str),
    ("Batch", "images", "batch_size", count),
]
STATISTICS: list[Spec] = [
    *PLACE,
    ("Queries", "", "queries", count),
    ("Mean", "ms", "latency_mean_ms", sig),
    ("Median", "ms", "latency_median_ms", sig),
    ("p90", "ms", "latency_p90_ms", sig),
    ("p95", "ms", "latency_p95_ms", sig),
    ("p99", "ms", "latency_p99_ms", sig),
    ("Processes", "", "processes", count),
    ("Std. dev. of their means", "ms", "process_std_ms", sig),
    ("Opening", "s", "open_seconds", sig),
    ("First query", "s", "first_query_seconds", sig),
    ("Energy", "mJ per image", "energy_per_image_mj", sig),
    STATUS,
]
THROUGHPUT: list[Spec] = [
    *PLACE,
    ("In flight", "queries", "slots", count),
    ("Queries", "", "queries", count),
    ("Throughput", "images/s", "images_per_second", sig),
    ("Std. dev. over rounds", "images/s", "images_per_second_std", sig),
    ("Energy", "mJ per image", "energy_per_image_mj", sig),
    STATUS,
]
GPU_TIMES: list[Spec] = [
    *PLACE,
    ("Part", "", "part", str),
    ("Min", "ms", "min_ms", sig),
    ("Max", "ms", "max_ms", sig),
    ("Mean", "ms", "mean_ms", sig),
    ("Median", "ms", "median_ms", sig),
    ("p90", "ms", "p90_ms", sig),
    ("p95", "ms", "p95_ms", sig),
    ("p99", "ms", "p99_ms", sig),
    ("Total", "ms", "total_ms", sig),
    ("Walltime", "s", "host_seconds", sig),
]
SCENARIOS: list[Spec] = [
    ("Scenario", "", "scenario", str),
    *PLACE,
    ("In flight", "queries", "slots", count),
    ("Arrivals", "queries/s", "target_rate", sig),
    ("Completed", "queries/s", "achieved_rate", sig),
    ("Queries", "", "queries", count),
    ("Median", "ms", "latency_median_ms", sig),
    ("p90", "ms", "latency_p90_ms", sig),
    ("p99", "ms", "latency_p99_ms", sig),
    ("Limit of p99", "ms", "limit_ms", sig),
    ("Kept", "", "kept", yes),
    ("Note", "", "note", str),
]
CERTIFICATES: list[Spec] = [
    *PLACE,
    ("Experiment", "", "experiment", str),
    ("Round", "", "round", count),
    ("Provider", "", "provider", str),
    ("Threads", "", "threads", count),
    ("Processors", "", "affinity", str),
    ("CPU clock", "MHz", "cpu_mhz", sig),
    ("Governor", "", "cpu_governor", str),
    ("Others' load", "share of cores", "foreign_cpu", share),
    ("GPU clock", "MHz", "gpu_sm_mhz", sig),
    ("GPU memory clock", "MHz", "gpu_memory_mhz", sig),
    ("GPU", "°C", "gpu_temperature_c", sig),
    ("Power", "W", "power_w", sig),
    ("Trouble", "", "trouble", str),
]
TRIALS: list[Spec] = [
    ("Trial", "", "trial", count),
    ("Adjusted", "", "adjusted", str),
    ("Score", "macro F1", "score", share),
    ("Best so far", "macro F1", "best_so_far", share),
    ("Epochs", "", "epochs", count),
    ("Time", "s", "seconds", sig),
    STATUS,
]
ABLATIONS: list[Spec] = [
    ("Technique", "", "technique", str),
    ("Sets", "", "adjusted", str),
    ("Epoch", "s, median without the first", "epoch_seconds", sig),
    ("Shortest", "s", "epoch_seconds_low", sig),
    ("Longest", "s", "epoch_seconds_high", sig),
    ("Speed-up", "× over no technique", "times", sig),
    ("Verdict", "", "verdict", str),
    ("First epoch", "s", "first_epoch_seconds", sig),
    ("Training", "images/s", "images_per_second", sig),
    ("Data wait", "share", "data_wait", share),
    ("Memory", "MB, peak", "memory_peak_bytes", mb),
    ("Top-1", "held-out", "top1", share),
    ("Macro F1", "held-out", "macro_f1", share),
    ("Over seeds", "std of macro F1", "macro_f1_std", share),
    ("Arithmetic", "", "precision", str),
    ("Note", "", "note", str),
    STATUS,
]
POLICIES: list[Spec] = [("Policy", "", "setting", str), VARIANT, F1, HELD_OUT, GOES_ON, STATUS]
PRUNED: list[Spec] = [
    VARIANT,
    ("When", "", "when", str),
    ("Parameters", "", "parameters", count),
    ("MACs", "millions per image", "macs", mb),
    SIZE,
    F1,
    HELD_OUT,
    STATUS,
]
QUANTIZED: list[Spec] = [
    VARIANT,
    ("Setting", "", "setting", str),
    ("Validation top-1", "share", "validation_top1", share),
    ("Search latency", "ms", "search_latency_ms", sig),
    SIZE,
    GOES_ON,
    STATUS,
]
FORMS: list[Spec] = [
    VARIANT,
    ("Format", "", "format", str),
    ("Precision", "", "precision", str),
    SIZE,
    ("Logit difference", "share of the largest", "parity", "{:.1e}".format),
    ("Accepted", "at most", "tolerance", "{:.0e}".format),
    STATUS,
]
DATASET: list[Spec] = [
    ("Split", "", "split", str),
    ("Images", "", "rows", count),
    ("Classes", "", "classes", count),
    ("Size", "pixels", "image_size", count),
    ("Channels", "", "channels", count),
    ("Rarest class", "images", "class_rows_min", count),
    ("Commonest class", "images", "class_rows_max", count),
    ("Duplicates within", "images", "duplicates_within", count),
    ("Duplicates across", "images", "duplicates_across", count),
    ("Dropped", "rows", "dropped", count),
]


ON_VALIDATION = ("validation_macro_f1", "validation_top1", "score", "best_so_far")
"""Columns of scores on validation images."""


def of_images(specs: Sequence[Spec], images: int | None) -> list[Spec]:
    """Return the columns, with the number of validation images in the unit of scores on them, where it is known."""
    if images is None:
        return list(specs)
    suffix = f" of {count(images)} images"
    return [(name, unit + (suffix if key in ON_VALIDATION else ""), key, write) for name, unit, key, write in specs]
