"""S4: size and execution time of four models as trained, in ONNX, quantized, and in TorchScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, fastest, figure, percent, rows, timed
from tasks.summary import sig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.published import Row, Tables

HARDWARE = "a CPU and a GPU that the study does not name"
FORMS: dict[str, Callable[[Row], bool]] = {
    "as trained": lambda row: row["runtime"] == "eager" and row["device"] == "cpu",
    "as trained, GPU": lambda row: row["runtime"] == "eager" and row["device"] != "cpu",
    "ONNX": lambda row: row["runtime"] == "onnxruntime" and row["precision"] == "fp32" and row["device"] == "cpu",
    "ONNX int8": lambda row: row["runtime"] == "onnxruntime" and row["precision"] == "int8" and row["device"] == "cpu",
    "TorchScript CPU": lambda row: row["runtime"] == "torchscript" and row["device"] == "cpu",
    "TorchScript GPU": lambda row: row["runtime"] == "torchscript" and row["device"] != "cpu",
}
MODELS: dict[str, dict[str, tuple[str, str]]] = {
    "resnet34": {"as trained": ("81.40", "0.843"), "ONNX": ("81.38", "91.29"), "ONNX int8": ("20.44", "92.81"),
                 "TorchScript CPU": (ABSENT, "4.81"), "TorchScript GPU": (ABSENT, "0.40")},
    "densenet121": {"as trained": ("30.63", "0.843"), "ONNX": ("30.11", "72.00"), "ONNX int8": ("8.44", "62.52"),
                    "TorchScript CPU": (ABSENT, "5.02"), "TorchScript GPU": (ABSENT, "1.11")},
    "efficientnet_b0": {"as trained": ("20.37", "1.096"), "ONNX": ("20.15", "31.40"), "ONNX int8": ("5.33", "32.80"),
                        "TorchScript CPU": (ABSENT, "4.68"), "TorchScript GPU": (ABSENT, "1.22")},
    "convnext": {"as trained": ("338.14", "1.221"), "ONNX": ("338.16", "303.18"), "ONNX int8": ("85.42", "406.41"),
                 "TorchScript CPU": (ABSENT, "10.94"), "TorchScript GPU": (ABSENT, "0.68")},
}  # fmt: skip
"""Megabytes, milliseconds (as trained: published in seconds)."""


def compare(tables: Tables) -> list[Comparison]:
    """A line a model and form, at the smallest batch size measured."""
    summary = rows(tables, "summary", lambda row: "/prune-" not in row["variant"])
    batch = min((row["batch_size"] for row in summary), default=1)
    labels = list(dict.fromkeys(row["model"] for row in summary))
    lines = []
    for family, published in MODELS.items():
        label = next((label for label in labels if family in label), None)
        ours = [row for row in summary if row["model"] == label and row["batch_size"] == batch]
        for form, fits in FORMS.items():
            row = fastest([row for row in ours if fits(row)])
            figures = published.get(form)
            if figures or row:
                lines.append(Line((label or family, form), (*figures, ABSENT) if figures else None, _here(row)))
    return [Comparison(
        "One model, five ways to run it", ("model", "form"), ("size MB", f"median ms, batch {batch}", "top-1 %"),
        tuple(lines),
        ("Published times as trained and of TorchScript on a GPU are launches without a synchronisation; here the result "
         "is waited for.",
         "Published TorchScript on a CPU (4.8 ms) and ONNX (91 ms) are not of the same input; here all have the same.",
         "Published int8 has no accuracy; here each form's is measured on the file that is timed. 338 MB: ConvNeXt-Base."),
    )]  # fmt: skip


def _here(row: Row | None) -> tuple[str, ...] | None:
    if row is None:
        return None
    return figure(row["size_bytes"], lambda v: sig(v / 1e6)), timed(row), percent(row, "top1")
