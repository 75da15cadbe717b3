"""S2: DenseNet-121 on ImageNet, plain, pruned and in ONNX: size, accuracy, memory, latency at five batch sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, fastest, figure, one_device, rounds, rows, timed
from tasks.tables.csv_view import rate_column
from tasks.tables.figures import sig
from tasks.tables.rule import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.published import Row, Tables

    Forms = Mapping[str, Mapping[int, Row]]
    """Technique -> batch size -> row of the summary."""

HARDWARE = "NVIDIA RTX A5000; 1,024 images of ImageNet's validation set"
BATCHES = (1, 4, 8, 16, 32)
RAM = ("4.6", "18.4", "36.8", "73.5", "147")
VRAM = ("241.8", "972.7", "1945.1", "3871.3", "7720")
"""RAM and VRAM in MB at each batch size, as published for every technique."""
Technique = tuple[tuple[str, str, str], tuple[tuple[str, str], ...]]
"""Size in MB, top-1 and top-5 in per cent; and milliseconds per batch and samples per second at each batch size."""
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
"""Technique -> whether a row of the summary belongs to it."""


def compare(tables: Tables) -> list[Comparison]:
    """Return the study's table: one row per technique, one column per batch size, and int8, which it did not try."""
    summary = rows(tables, "summary")
    candidates = one_device(summary)
    sizes = tuple(dict.fromkeys((*BATCHES, *sorted({row["batch_size"] for row in candidates}))))
    forms = {name: _by_batch([row for row in candidates if fits(row)]) for name, fits in FORMS.items()}
    comparisons = (
        _speed(forms, sizes, rate_column(summary)),
        _memory(forms, sizes),
        _deviations(tables, forms, sizes),
    )
    return [comparison for comparison in comparisons if comparison.lines]


def _speed(forms: Forms, sizes: Sequence[int], rate: str) -> Comparison:
    def measured(row: Row) -> str:
        return f"{timed(row, 'latency_mean_ms')}/{figure(row[rate])}"

    how = "with several queries in flight" if rate == "throughput" else "batch over mean latency, one query in flight"
    return Comparison(
        "Techniques: mean ms per batch/samples per s",
        ("technique",),
        ("size MB", "top-1 %", "top-5 %", *_headers(sizes)),
        _lines(forms, sizes, measured, published=_published, first=_quality),
        (
            f"Samples per s: published, batch over latency; here, {how}, as in benchmark_results.csv.",
            "Published ONNX size: the graph without its external weights; here weights count.",
            "Published latencies fall where the batch grows, the mark of no warm-up; here every process is warmed up.",
            "Published pruning zeroes weights (no gain in time); here whole channels go, and the model is fine-tuned.",
        ),
    )


def _memory(forms: Forms, sizes: Sequence[int]) -> Comparison:
    def measured(row: Row) -> str:
        return f"{_mb(row['ram_usage_bytes'])}/{_mb(row['vram_peak_bytes'])}"

    return Comparison(
        "Memory: RAM/VRAM MB",
        ("technique",),
        _headers(sizes),
        _lines(forms, sizes, measured, published=_published_memory),
        (
            "Published RAM and VRAM depend on the batch size alone. They are the same for each technique, but VRAM of "
            "ONNX is 0. Here RAM is the peak of the process above its baseline, and VRAM is what NVML reports for the "
            "process, whichever runtime.",
        ),
    )


def _deviations(tables: Tables, forms: Forms, sizes: Sequence[int]) -> Comparison:
    return Comparison(
        "Deviation: ms per batch, mean ± standard deviation over fresh processes",
        ("technique",),
        _headers(sizes),
        _lines(forms, sizes, lambda row: _deviation(tables, row)),
        ("The study measured once.",),
    )


def _headers(sizes: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"batch {size}" for size in sizes)


def _lines(
    forms: Forms,
    sizes: Sequence[int],
    measured: Callable[[Row], str],
    *,
    published: Callable[[str], tuple[str, ...]] = lambda technique: (),
    first: Callable[[Row], tuple[str, ...]] = lambda row: (),
) -> tuple[Line, ...]:
    """Return one line per technique that was published or measured.

    Parameters
    ----------
    measured
        Writes the cell of one batch size from a row of the summary.
    published
        Returns the published cells of a technique for `first` and `BATCHES`; empty where there are none.
    first
        Writes the cells before those of the batch sizes from any row of the technique.
    """
    lines = []
    for technique, by_batch in forms.items():
        theirs, ours = published(technique), None
        if by_batch:
            cells = (measured(by_batch[size]) if size in by_batch else ABSENT for size in sizes)
            ours = (*first(next(iter(by_batch.values()))), *cells)
        if theirs or ours:
            padding = (ABSENT,) * (len(sizes) - len(BATCHES))
            lines.append(Line((technique,), theirs + padding if theirs else None, ours))
    return tuple(lines)


def _published(technique: str) -> tuple[str, ...]:
    """Return size, scores, and times per batch size of a technique, as published."""
    quality, times = TECHNIQUES.get(technique, ((), ()))
    return (*quality, *(f"{ms}/{samples}" for ms, samples in times))


def _published_memory(technique: str) -> tuple[str, ...]:
    """Return RAM and VRAM per batch size of a technique, as published."""
    if technique not in TECHNIQUES:
        return ()
    vram = ("0",) * len(BATCHES) if technique == "ONNX" else VRAM
    return tuple(f"{ram_mb}/{vram_mb}" for ram_mb, vram_mb in zip(RAM, vram, strict=True))


def _by_batch(candidates: list[Row]) -> dict[int, Row]:
    """Return batch size -> row of one candidate: the one that is fastest at the smallest batch size."""
    smallest = min((row["batch_size"] for row in candidates if row["status"] == "ok"), default=None)
    best = fastest([row for row in candidates if row["batch_size"] == smallest])
    if best is None:
        return {}
    return {
        row["batch_size"]: row
        for row in candidates
        if row["status"] == "ok" and all(row[key] == best[key] for key in KEY)
    }


def _onnx(row: Row, precision: str) -> bool:
    return row["runtime"] == "onnxruntime" and row["precision"] == precision and "/prune-" not in row["variant"]


def _mb(value: float | None) -> str:
    return figure(value, lambda size: sig(size / 1e6))


def _quality(row: Row) -> tuple[str, ...]:
    """Return size in MB, top-1 and top-5 in per cent."""
    return (
        _mb(row["size_bytes"]),
        *(figure(row[name], lambda share: f"{100 * share:.1f}") for name in ("top1", "top5")),
    )


def _deviation(tables: Tables, row: Row) -> str:
    """Return the mean latency, and the standard deviation of the processes' means where there are several."""
    deviation = rounds(tables, row).get("process_std_ms")
    return timed(row, "latency_mean_ms") + (f" ± {sig(deviation)}" if deviation is not None else "")
