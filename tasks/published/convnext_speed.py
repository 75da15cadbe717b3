"""S5: what torch.compile and mixed precision bring in training ConvNeXt, and inference, which the study left undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, Marks, one_device, percent, rows, timed, times
from tasks.published._ablations import EPOCHS as ABOUT_EPOCHS
from tasks.published._ablations import MEMORY, by_model, figures
from tasks.tables.figures import sig
from tasks.tables.summary import TRAINING

if TYPE_CHECKING:
    from tasks.published import Row, Tables

HARDWARE = "NVIDIA RTX 4090; Tiny ImageNet enlarged to 224×224 pixels, accuracy on its validation images"
NAMES = {"none": "vanilla", "TC": "torch.compile (TC)", "AMP": "mixed precision (AMP)", "all": "everything"}
EPOCHS = {
    "none": (150.91, "46.53"),
    "TC": (145.69, "46.16"),
    "AMP": (136.97, "47.86"),
    "TC + AMP": (110.99, "47.16"),
}
"""Seconds an epoch, validation accuracy in per cent."""
COLUMNS = ("epoch s", "× vanilla", "test accuracy %", "memory MB")
PLANNED = {
    "TensorRT": lambda row: row["runtime"].startswith("tensorrt"),
    "quantization": lambda row: row["precision"] == "int8" and "/int8-qat-" not in row["variant"],
    "QAT": lambda row: "/int8-qat-" in row["variant"],
}


def compare(tables: Tables) -> list[Comparison]:
    """Training by technique, and the forms for inference; two tables a model."""
    ablated = by_model(tables)
    models = list(dict.fromkeys(row["model"] for row in rows(tables, "summary")))
    return [
        *(_training(model, ablated[model]) for model in ablated),
        *([] if ablated else [_training("", {})]),
        *(_inference(tables, model) for model in models),
    ]


def _training(model: str, here: dict[str, Row]) -> Comparison:
    marks, plain, lines = Marks(), here.get("none", {}), []
    for name in dict.fromkeys((*EPOCHS, *here)):
        published = None
        if name in EPOCHS:
            seconds, accuracy = EPOCHS[name]
            published = (f"{seconds:.2f}", sig(EPOCHS["none"][0] / seconds), accuracy, ABSENT)
        ours = figures(here[name], plain, COLUMNS, marks) if name in here else None
        lines.append(Line((NAMES.get(name, name),), published, ours))
    notes = (
        "Published × vanilla is derived: its epoch times divided.",
        "Accuracy here: on the held-out images after the ablation's few epochs.",
        ABOUT_EPOCHS,
        MEMORY,
    )
    title = f"Training: {model}" if model else "Training"
    return Comparison(
        title, ("change",), ("epoch s", "× vanilla", "accuracy %", "memory MB"), tuple(lines), marks.notes + notes
    )


def _inference(tables: Tables, model: str) -> Comparison:
    """The forms of a model on one device, the slowest first, those that were not measured last."""
    summary = one_device(rows(tables, "summary", lambda row: row["model"] == model))
    batch = min((row["batch_size"] for row in summary), default=1)
    found = [row for row in summary if row["batch_size"] == batch]
    found.sort(key=lambda row: (row["status"] != "ok", -(row["latency_median_ms"] or 0.0)))
    base = next((row for row in found if row["runtime"] == "eager" and row["stage"] in TRAINING), None)
    marks = Marks()
    lines = tuple(
        Line(
            (row["variant"].removeprefix(f"{model}/"), row["runtime"]),
            None,
            (timed(row), times(tables, base, row)[0], percent(row, "top1"))
            if row["status"] == "ok"
            else (marks.outcome(row), ABSENT, ABSENT),
        )
        for row in found
    )
    notes = [
        "× eager: times as fast as the unpruned model in PyTorch eager, with the 99 % interval of paired rounds.",
        _undone(found),
    ]
    file = next((row["variant"] for row in found if row["format"] == "onnx" and row["precision"] == "fp32"), None)
    if file:
        notes.append(
            f"Flame chart and operators in their time: `burnish profile {file}`; the graph in Netron: the same with "
            "--netron; operators of the exported file: the report's section on it."
        )
    devices = ", ".join(dict.fromkeys(row["device"] for row in found))
    columns = ("median ms", "× eager", "top-1 %")
    return Comparison(
        f"Inference: {model}, {devices}, batch {batch}", ("form", "runtime"), columns, lines, (*marks.notes, *notes)
    )


def _undone(found: list[Row]) -> str:
    """What became here of what the study planned."""
    said = []
    for name, fits in PLANNED.items():
        states = {row["status"] for row in found if fits(row)}
        said.append(f"{name} {'measured' if 'ok' in states else ' and '.join(sorted(states)) or 'not asked for'}")
    return f"The study planned these and did not do them; here: {', '.join(said)}."
