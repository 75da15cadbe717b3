"""The report's tables: which columns with which units, and how a figure is written for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.report.folding import fold
from tasks.tables.figures import interval, resolved, sig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl

Row = dict[str, Any]
Spec = tuple[str, str, str, Callable[[Any], str]]
"""Header, unit, key of the row, how it is written (str: a text column)."""
MARKS = {"winner": "★", "provisional": "?", "runner-up": "2", "reference": "R"}
ABSENT = "–"
ABSENT_WHY = {
    "process_std_ms": "one process alone",
    "images_per_second_std": "one round alone",
    "trouble": "nothing",
    "cpu_governor": "the kernel does not say (virtual machine?)",
    "power_w": "no meter can be read here",
    "note": "nothing to add",
    "target_rate": "the server scenario's",
    "kept": "the server scenario's",
    "achieved_rate": "no rate was worth trying: one query alone exceeds the limit",
    "limit_ms": "the server scenario's",
    "throughput": "not asked for",
    "precision": "no image was called it",
    "recall": "no image is of it",
    "taken_for": "for nothing else",
    "macro_f1_std": "one seed alone",
    "epoch_seconds": "one epoch alone",
    "times": "one epoch alone",
    "epoch_seconds_low": "one epoch alone",
    "epoch_seconds_high": "one epoch alone",
    "verdict": "none itself, or fewer than four epochs to compare",
}
PLACES = {"runtime": "{}", "device": "{}", "batch_size": "batch {}"}
"""Columns that say where a row was measured, and how they are told below its name."""
SAYS_WHY = ("variant", "name", "adjusted", "technique")
"""Text columns with the reason below where a row is not ok, or was measured under bad conditions."""
OF_A_CLASS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Cell:
    """A table cell: what is read, what it sorts by, what explains it."""

    text: str
    sort: float | str | None = None
    why: str = ""
    number: bool = True
    below: str = ""
    """A second, small line."""
    place: str = ""
    """Of a column that says where a row was measured ("runtime", ...): what it says. A narrow page has no room for such
    columns; they stand below the row's name there."""


@dataclass(frozen=True)
class Grid:
    """A table of the report: headers with units; of each row the CSS class, the part it plays and its cells."""

    headers: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Cell]]]
    caption: str
    folded: list[tuple[str, list[str]]]
    """Skipped rows of one reason each, which are not among `rows`: the line that stands for them, and which they
    are."""

    @property
    def numbers(self) -> list[bool]:
        """Of each column, whether it holds numbers."""
        return [cell.number for cell in self.rows[0][2]] if self.rows else [False] * len(self.headers)

    @property
    def places(self) -> list[bool]:
        """Of each column, whether it says where a row was measured."""
        return [bool(cell.place) for cell in self.rows[0][2]] if self.rows else [False] * len(self.headers)


def mb(value: float) -> str:
    """Megabytes (10^6), or millions."""
    return sig(value / 1e6)


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def share(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def yes(value: bool) -> str:
    """Yes or no."""
    return "yes" if value else "no"


def fact(key: str, value: Any) -> str:
    """A fact about the machine, of the table `environments`."""
    if value is None:
        return "not known" if key == "cpu_governor" else "none"
    if key == "libraries":
        return ", ".join(f"{name} {version}" for name, version in json.loads(value).items())
    if key.endswith("_bytes"):
        return f"{sig(value / 1e9)} GB"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


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
    STATUS,
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
    ("Epoch", "s, median but the first", "epoch_seconds", sig),
    ("Shortest", "s", "epoch_seconds_low", sig),
    ("Longest", "s", "epoch_seconds_high", sig),
    ("Faster", "times, than none", "times", sig),
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


def _absent(row: Mapping[str, Any], key: str) -> str:
    """Why a cell of a row is empty."""
    if row.get("error"):
        return f"{row['status']}: {row['error']}"
    if "_p9" in key:
        return "fewer samples than this percentile needs"
    if key.startswith("energy"):
        return "no meter can be read here; the certificates say why"
    return "on a GPU alone" if key.startswith(("vram", "gpu")) else ABSENT_WHY.get(key, "not measured in this stage")


def cell(row: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> Cell:
    """What a table shows of `row[key]`: the figure, or a dash and why there is none."""
    value, reason = row.get(key), row.get("error") or row.get("conditions") or ""
    if key == "status":
        marked = "marked" if row.get("conditions") else "stopped early" if row.get("stopped_early") else "ok"
        text = marked if value == "ok" else str(value)
        return Cell(text, text, reason, number=False)
    if key in PLACES and value is not None:
        return Cell(write(value), value, number=write is not str, place=PLACES[key].format(value))
    if value is None:
        return Cell(ABSENT, None, _absent(row, key), write is not str)
    if isinstance(value, str | bool):
        return Cell(write(value), str(value), number=False, below=reason if key in SAYS_WHY else "")
    return _figure(row, key, write)


def _figure(row: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> Cell:
    """A number, with what its interval or its conditions say of it."""
    value = row[key]
    if key == "speedup" and row.get("speedup_low") is not None:
        return _speed_up(row, write)
    why, below = "", ""
    stem, unit = (key[:-3], "_ms") if key.endswith("_ms") else (key, "")
    first, last = row.get(f"{stem}_low{unit}"), row.get(f"{stem}_high{unit}")
    if first is not None and last is not None:
        low, high = write(first), write(last)
        why = f"{95 if key in ('top1', 'macro_f1', *OF_A_CLASS) else 99} % interval {low} to {high}"
        below = f"{low}–{high}" if key in OF_A_CLASS else ""
    if key == "throughput" and row.get("throughput_conditions"):
        why = f"measured under bad conditions: {row['throughput_conditions']}"
        return Cell(f"{write(value)}*", value, why)
    return Cell(write(value), value, why, below=below)


def _speed_up(row: Mapping[str, Any], write: Callable[[Any], str]) -> Cell:
    """The speed-up and its interval; a dash where rounds differ too much: the figure is then as good as any other."""
    below = interval(row["speedup_low"], row["speedup_high"])
    known = resolved(row["speedup_low"], row["speedup_high"])
    low, high = row["speedup_low"], row["speedup_high"]
    why = (
        f"{row['verdict']}, 99 % interval: "
        f"{below if known or high is None else f'{sig(low)} to {sig(high)}, as {below}'}"
    )
    return Cell(write(row["speedup"]) if known else ABSENT, row["speedup"] if known else None, why, below=below)


def grid(specs: Sequence[Spec], rows: Iterable[Mapping[str, Any]], caption: str) -> Grid | None:
    """A table of rows; None of no rows. Two skipped rows of one reason, and more, become a line below the table."""
    shown, folded = fold(rows, least=2)
    made = [
        (
            f"{row.get('role') or ''} {row.get('status', 'ok')}".strip(),
            row.get("role") or "",
            [cell(row, key, write) for _, _, key, write in specs],
        )
        for row in shown
    ]
    return Grid([(name, unit) for name, unit, _, _ in specs], made, caption, folded) if made or folded else None


ON_VALIDATION = ("validation_macro_f1", "validation_top1", "score", "best_so_far")
"""Columns of scores on validation images."""


def of_images(specs: Sequence[Spec], images: int | None) -> list[Spec]:
    """The columns, with the number of validation images in the unit of what was scored on them."""
    said = "" if images is None else f" of {count(images)} images"
    return [(name, f"{unit}{said if key in ON_VALIDATION else ''}", key, write) for name, unit, key, write in specs]


def in_order(summary: pl.DataFrame, batch: int) -> list[Row]:
    """The three that play a part, then the compared batch size, those that are ok first, by latency."""
    parts = [*MARKS, None]
    return sorted(
        summary.to_dicts(),
        key=lambda r: (
            parts.index(r["role"]),
            r["batch_size"] != batch,
            r["batch_size"],
            r["status"] != "ok",
            r["device"],
            r["latency_median_ms"] or 0.0,
            r["variant"],
        ),
    )


def adjusted(text: str) -> str:
    """A trial's settings in words, from JSON."""
    found = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in json.loads(text).items()]
    return ", ".join(found) or "the study's own"
