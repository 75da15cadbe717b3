"""S5: how much faster torch.compile and mixed precision make training ConvNeXt; and inference, which it did not try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, Marks, one_device, percent, rows, timed, times
from tasks.published._ablations import EPOCHS as ABOUT_EPOCHS
from tasks.published._ablations import MEMORY, by_model, figures
from tasks.tables.figures import sig
from tasks.tables.rule import TRAINING

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
"""Technique -> seconds per epoch, and validation accuracy in per cent, as published."""
COLUMNS = ("epoch s", "× vanilla", "test accuracy %", "memory MB")
PLANNED = {
    "TensorRT": lambda row: row["runtime"].startswith("tensorrt"),
    "quantization": lambda row: row["precision"] == "int8" and "/int8-qat-" not in row["variant"],
    "QAT": lambda row: "/int8-qat-" in row["variant"],
}
"""Plan of the study that it did not carry out -> whether a row of the summary is about it."""


def compare(tables: Tables) -> list[Comparison]:
    """Return two tables per model: training by technique, and the forms for inference."""
    ablated = by_model(tables)
    models = list(dict.fromkeys(row["model"] for row in rows(tables, "summary")))
    return [
        *(_training(model, ablated[model]) for model in ablated),
        *([] if ablated else [_training("", {})]),
        *(_inference(tables, model) for model in models),
    ]


def _training(model: str, techniques: dict[str, Row]) -> Comparison:
    """Return the table of training. `techniques` maps a technique to this run's row of `ablations`."""
    marks = Marks()
    plain = techniques.get("none", {})
    lines = []
    for name in dict.fromkeys((*EPOCHS, *techniques)):
        published = None
        if name in EPOCHS:
            seconds, accuracy = EPOCHS[name]
            published = (f"{seconds:.2f}", sig(EPOCHS["none"][0] / seconds), accuracy, ABSENT)
        measured = figures(techniques[name], plain, COLUMNS, marks) if name in techniques else None
        lines.append(Line((NAMES.get(name, name),), published, measured))
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
    """Return the forms of a model on one device, the slowest first. Those that were not measured come last."""
    summary = one_device(rows(tables, "summary", lambda row: row["model"] == model))
    batch = min((row["batch_size"] for row in summary), default=1)
    forms = [row for row in summary if row["batch_size"] == batch]
    forms.sort(key=lambda row: (row["status"] != "ok", -(row["latency_median_ms"] or 0.0)))
    eager = next((row for row in forms if row["runtime"] == "eager" and row["stage"] in TRAINING), None)
    marks, lines = Marks(), []
    for row in forms:
        if row["status"] == "ok":
            measured = (timed(row), times(tables, eager, row)[0], percent(row, "top1"))
        else:
            measured = (marks.outcome(row), ABSENT, ABSENT)
        lines.append(Line((row["variant"].removeprefix(f"{model}/"), row["runtime"]), None, measured))
    devices = ", ".join(dict.fromkeys(row["device"] for row in forms))
    return Comparison(
        f"Inference: {model}, {devices}, batch {batch}",
        ("form", "runtime"),
        ("median ms", "× eager", "top-1 %"),
        tuple(lines),
        (*marks.notes, *_notes(forms)),
    )


def _notes(forms: list[Row]) -> list[str]:
    notes = [
        "× eager: times as fast as the unpruned model in PyTorch eager, with the 99 % interval of paired rounds.",
        _planned(forms),
    ]
    onnx = next((row["variant"] for row in forms if row["format"] == "onnx" and row["precision"] == "fp32"), None)
    if onnx:
        notes.append(
            f"`burnish profile {onnx}` draws the flame chart and lists the operators with their times; with --netron "
            "it also shows the graph. The operators of the exported file are in the report's section on ONNX graphs."
        )
    return notes


def _planned(forms: list[Row]) -> str:
    """Return what became in this run of what the study planned and did not do."""
    outcomes = []
    for name, fits in PLANNED.items():
        states = {row["status"] for row in forms if fits(row)}
        outcome = "measured" if "ok" in states else " and ".join(sorted(states)) or "not asked for"
        outcomes.append(f"{name} {outcome}")
    return f"The study planned these and did not do them; here: {', '.join(outcomes)}."
