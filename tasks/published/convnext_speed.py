"""S5: what torch.compile and mixed precision bring in training ConvNeXt, and inference, which the study left undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, figure, one_device, percent, rows, timed
from tasks.summary import sig, words

if TYPE_CHECKING:
    from tasks.published import Row, Tables

HARDWARE = "NVIDIA RTX 4090"
NAMES = {"none": "vanilla", "TC": "torch.compile (TC)", "AMP": "mixed precision (AMP)", "all": "everything"}
EPOCHS = {
    "none": ("150.91", "1", "46.53"),
    "TC": ("145.69", "1.04", "46.16"),
    "AMP": ("136.97", "1.10", "47.86"),
    "TC + AMP": ("110.99", "1.36", "47.16"),
}
"""Seconds an epoch, times as fast as vanilla, validation accuracy in per cent."""


def compare(tables: Tables) -> list[Comparison]:
    """Training by technique, and the forms for inference."""
    here = {row["technique"]: row for row in rows(tables, "ablations")}
    vanilla = (here.get("none") or {}).get("epoch_seconds")
    lines = []
    for name in dict.fromkeys((*EPOCHS, *here)):
        published = (*EPOCHS[name], ABSENT) if name in EPOCHS else None
        lines.append(Line((NAMES.get(name, name),), published, _trained(here[name], vanilla) if name in here else None))
    columns = ("epoch s", "× vanilla", "accuracy %", "memory MB")
    return [
        Comparison("Training", ("change",), columns, tuple(lines),
                   ("Here: the median epoch but the first, in which PyTorch compiles; accuracy on the held-out images after "
                    "the ablation's few epochs.",)),
        _inference(tables),
    ]  # fmt: skip


def _trained(row: Row, vanilla: float | None) -> tuple[str, ...]:
    if row["status"] != "ok":
        return (f"{row['status']}: {row['error']}", ABSENT, ABSENT, ABSENT)
    seconds = row["epoch_seconds"]
    times = sig(vanilla / seconds) if vanilla and seconds else ABSENT
    memory = figure(row["memory_peak_bytes"], lambda value: f"{value / 1e6:.0f}")
    return figure(seconds), times, percent(row, "top1"), memory


def _inference(tables: Tables) -> Comparison:
    summary = one_device(rows(tables, "summary"))
    batch = min((row["batch_size"] for row in summary), default=1)
    lines = [
        Line((words(row),), None, (timed(row), figure(row["speedup"]), percent(row, "top1"))
             if row["status"] == "ok" else (f"{row['status']}: {row['error']}", ABSENT, ABSENT))
        for row in summary if row["batch_size"] == batch
    ]  # fmt: skip
    return Comparison("Inference", ("form",), ("median ms", "× eager", "top-1 %"), tuple(lines),
                      ("Planned in the study and undone: TensorRT, quantization.",))  # fmt: skip
