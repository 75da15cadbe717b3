"""S2: DenseNet-121 on ImageNet, plain, pruned and in ONNX: size, accuracy, memory, latency at five batch sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import Comparison, Line, fastest, figure, one_device, rows, timed
from tasks.summary import sig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.published import Row, Tables

HARDWARE = "NVIDIA RTX A5000"
BATCHES = (1, 4, 8, 16, 32)
RAM = ("4.6", "18.4", "36.8", "73.5", "147")
VRAM = ("241.8", "972.7", "1945.1", "3871.3", "7720")
Technique = tuple[tuple[str, str, str], tuple[tuple[str, str], ...]]
"""Size, top-1, top-5; of each batch size milliseconds per batch and samples a second."""
TECHNIQUES: dict[str, Technique] = {
    "none": (("31.1", "88.4", "97.1"),
             (("94.5", "10.6"), ("188.3", "21.2"), ("195.8", "40.9"), ("153.1", "104.5"), ("325.4", "98.3"))),
    "pruning": (("31", "65.5", "87.6"),
                (("42.4", "23.6"), ("225.3", "17.8"), ("165.9", "48.2"), ("225.6", "70.9"), ("339.8", "94.2"))),
    "ONNX": (("1.1", "88.4", "97.1"),
             (("39.6", "25.2"), ("90.2", "44.4"), ("104.9", "76.3"), ("31.9", "500.9"), ("53.5", "597.8"))),
}  # fmt: skip
FORMS: dict[str, Callable[[Row], bool]] = {
    "none": lambda row: row["runtime"] == "eager" and row["stage"] != "prune",
    "pruning": lambda row: row["runtime"] == "eager" and row["stage"] == "prune",
    "ONNX": lambda row: _onnx(row, "fp32"),
    "int8 ONNX": lambda row: _onnx(row, "int8"),
}  # fmt: skip


def compare(tables: Tables) -> list[Comparison]:
    """The study's table, a line a technique and batch size, with int8, which it left undone."""
    summary = one_device(rows(tables, "summary"))
    spread = {
        (row["variant"], row["runtime"], row["device"], row["batch_size"]): row for row in rows(tables, "benchmarks")
    }
    sizes = dict.fromkeys((*BATCHES, *sorted({row["batch_size"] for row in summary})))
    lines = []
    for technique, fits in FORMS.items():
        for batch in sizes:
            row = fastest([row for row in summary if row["batch_size"] == batch and fits(row)])
            published = _published(technique, batch)
            if published or row:
                lines.append(Line((technique, str(batch)), published, _here(row, spread) if row else None))
    return [Comparison(
        "Techniques by batch size", ("technique", "batch"),
        ("size MB", "top-1 %", "top-5 %", "RAM MB", "VRAM MB", "ms per batch", "samples/s"), tuple(lines),
        ("Published ONNX size: the graph without its external weights; here weights count.",
         "Published latencies fall where the batch grows, the mark of no warm-up; here every process is warmed up, and the "
         "deviation is over fresh processes.",
         "Published VRAM of ONNX: 0; here NVML's figure for the process, whichever runtime. RAM: peak above the baseline.",
         "Published pruning zeroes weights (no gain in time); here whole channels go, and the model is fine-tuned."),
    )]  # fmt: skip


def _onnx(row: Row, precision: str) -> bool:
    return row["runtime"] == "onnxruntime" and row["precision"] == precision and "/prune-" not in row["variant"]


def _published(technique: str, batch: int) -> tuple[str, ...] | None:
    if technique not in TECHNIQUES or batch not in BATCHES:
        return None
    quality, times = TECHNIQUES[technique]
    at = BATCHES.index(batch)
    return (*quality, RAM[at], "0" if technique == "ONNX" else VRAM[at], *times[at])


def _here(row: Row, spread: dict[tuple[str, str, str, int], Row]) -> tuple[str, ...]:
    measured = spread.get((row["variant"], row["runtime"], row["device"], row["batch_size"]), {})
    deviation = measured.get("process_std_ms")
    mean = timed(row, "latency_mean_ms") + (f" ± {sig(deviation)}" if deviation is not None else "")
    sizes = [figure(row[name], lambda v: sig(v / 1e6)) for name in ("size_bytes", "ram_usage_bytes", "vram_peak_bytes")]
    top = [figure(row[name], lambda v: f"{100 * v:.1f}") for name in ("top1", "top5")]
    return (sizes[0], *top, *sizes[1:], mean, figure(row["images_per_second"]))
