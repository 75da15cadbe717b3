"""S2: DenseNet-121 on ImageNet, plain, pruned and in ONNX: size, accuracy, memory, latency at five batch sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, fastest, figure, one_device, rounds, rows, timed
from tasks.tables.csv_view import rate_column
from tasks.tables.figures import sig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.published import Row, Tables

HARDWARE = "NVIDIA RTX A5000; 1,024 images of ImageNet's validation set"
BATCHES = (1, 4, 8, 16, 32)
RAM = ("4.6", "18.4", "36.8", "73.5", "147")
VRAM = ("241.8", "972.7", "1945.1", "3871.3", "7720")
Technique = tuple[tuple[str, str, str], tuple[tuple[str, str], ...]]
"""Size, top-1, top-5; of each batch size milliseconds per batch and samples a second."""
TECHNIQUES: dict[str, Technique] = {
    "none": (
        ("31.1", "88.4", "97.1"),
        (("94.5", "10.6"), ("188.3", "21.2"), ("195.8", "40.9"), ("153.1", "104.5"), ("325.4", "98.3")),
    ),
    "pruning": (
        ("31", "65.5", "87.6"),
        (("42.4", "23.6"), ("225.3", "17.8"), ("165.9", "48.2"), ("225.6", "70.9"), ("339.8", "94.2")),
    ),
    "ONNX": (
        ("1.1", "88.4", "97.1"),
        (("39.6", "25.2"), ("90.2", "44.4"), ("104.9", "76.3"), ("31.9", "500.9"), ("53.5", "597.8")),
    ),
}
FORMS: dict[str, Callable[[Row], bool]] = {
    "none": lambda row: row["runtime"] == "eager" and row["stage"] != "prune",
    "pruning": lambda row: row["runtime"] == "eager" and row["stage"] == "prune",
    "ONNX": lambda row: _onnx(row, "fp32"),
    "int8 ONNX": lambda row: _onnx(row, "int8"),
}


def compare(tables: Tables) -> list[Comparison]:
    """The study's table, a line a technique and a column a batch size, with int8, which it left undone."""
    summary = rows(tables, "summary")
    rate, here = rate_column(summary), one_device(summary)
    sizes = tuple(dict.fromkeys((*BATCHES, *sorted({row["batch_size"] for row in here}))))
    headers = tuple(f"batch {size}" for size in sizes)
    found = {name: _by_batch([row for row in here if fits(row)]) for name, fits in FORMS.items()}

    def lines(
        published: Callable[[str], tuple[str, ...]],
        write: Callable[[Row], str],
        about: Callable[[Row], tuple[str, ...]],
    ) -> tuple[Line, ...]:
        """A line a technique: what `about` says of its form, then a cell a batch size; published: none is empty."""
        told = []
        for name, group in found.items():
            theirs, ours = published(name), None
            if group:
                cells = (write(group[size]) if size in group else ABSENT for size in sizes)
                ours = (*about(next(iter(group.values()))), *cells)
            if theirs or ours:
                wide = theirs + (ABSENT,) * (len(sizes) - len(BATCHES)) if theirs else None
                told.append(Line((name,), wide, ours))
        return tuple(told)

    speed = lines(_published, lambda row: f"{timed(row, 'latency_mean_ms')}/{figure(row[rate])}", _quality)
    memory = lines(_memory, lambda row: f"{_mb(row['ram_usage_bytes'])}/{_mb(row['vram_peak_bytes'])}", lambda row: ())
    spread = lines(lambda name: (), lambda row: _deviation(tables, row), lambda row: ())
    rates = "with several queries in flight" if rate == "throughput" else "batch over mean latency, one query in flight"
    made = [
        Comparison(
            "Techniques: mean ms per batch/samples per s",
            ("technique",),
            ("size MB", "top-1 %", "top-5 %", *headers),
            speed,
            (
                f"Samples per s: published, batch over latency; here, {rates}, as in benchmark_results.csv.",
                "Published ONNX size: the graph without its external weights; here weights count.",
                (
                    "Published latencies fall where the batch grows, the mark of no warm-up; here every process is "
                    "warmed up."
                ),
                (
                    "Published pruning zeroes weights (no gain in time); here whole channels go, and the model is "
                    "fine-tuned."
                ),
            ),
        ),
        Comparison(
            "Memory: RAM/VRAM MB",
            ("technique",),
            headers,
            memory,
            (
                "Published RAM and VRAM are of the batch sizes, the same for each technique, and VRAM of ONNX is "
                "0; here RAM is "
                "the process's peak above its baseline, VRAM NVML's figure for the process, whichever runtime.",
            ),
        ),
        Comparison(
            "Deviation: ms per batch, mean ± standard deviation over fresh processes",
            ("technique",),
            headers,
            spread,
            ("The study measured once.",),
        ),
    ]
    return [one for one in made if one.lines]


def _published(technique: str) -> tuple[str, ...]:
    quality, times = TECHNIQUES.get(technique, ((), ()))
    return (*quality, *(f"{ms}/{samples}" for ms, samples in times))


def _memory(technique: str) -> tuple[str, ...]:
    vram = ("0",) * len(BATCHES) if technique == "ONNX" else VRAM
    return tuple(f"{ram}/{of}" for ram, of in zip(RAM, vram, strict=True)) if technique in TECHNIQUES else ()


def _by_batch(found: list[Row]) -> dict[int, Row]:
    """One form at each batch size: the fastest at the smallest."""
    first = min((row["batch_size"] for row in found if row["status"] == "ok"), default=None)
    best = fastest([row for row in found if row["batch_size"] == first])
    place = ("variant", "runtime", "device")
    return {
        row["batch_size"]: row
        for row in found
        if best and row["status"] == "ok" and all(row[key] == best[key] for key in place)
    }


def _onnx(row: Row, precision: str) -> bool:
    return row["runtime"] == "onnxruntime" and row["precision"] == precision and "/prune-" not in row["variant"]


def _mb(value: float | None) -> str:
    return figure(value, lambda size: sig(size / 1e6))


def _quality(row: Row) -> tuple[str, ...]:
    return (
        _mb(row["size_bytes"]),
        *(figure(row[name], lambda share: f"{100 * share:.1f}") for name in ("top1", "top5")),
    )


def _deviation(tables: Tables, row: Row) -> str:
    deviation = rounds(tables, row).get("process_std_ms")
    return timed(row, "latency_mean_ms") + (f" ± {sig(deviation)}" if deviation is not None else "")
