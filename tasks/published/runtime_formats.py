"""S4: size and latency of four models as trained, in ONNX, quantized, and in TorchScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, Marks, fastest, figure, percent, rows, timed, times
from tasks.tables.figures import sig

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
"""Form -> whether a row of the summary belongs to it."""
MODELS: dict[str, dict[str, tuple[str, str]]] = {
    "resnet34": {
        "as trained": ("81.40", "0.843"),
        "ONNX": ("81.38", "91.29"),
        "ONNX int8": ("20.44", "92.81"),
        "TorchScript CPU": (ABSENT, "4.81"),
        "TorchScript GPU": (ABSENT, "0.40"),
    },
    "densenet121": {
        "as trained": ("30.63", "0.843"),
        "ONNX": ("30.11", "72.00"),
        "ONNX int8": ("8.44", "62.52"),
        "TorchScript CPU": (ABSENT, "5.02"),
        "TorchScript GPU": (ABSENT, "1.11"),
    },
    "efficientnet_b0": {
        "as trained": ("20.37", "1.096"),
        "ONNX": ("20.15", "31.40"),
        "ONNX int8": ("5.33", "32.80"),
        "TorchScript CPU": (ABSENT, "4.68"),
        "TorchScript GPU": (ABSENT, "1.22"),
    },
    "convnext": {
        "as trained": ("338.14", "1.221"),
        "ONNX": ("338.16", "303.18"),
        "ONNX int8": ("85.42", "406.41"),
        "TorchScript CPU": (ABSENT, "10.94"),
        "TorchScript GPU": (ABSENT, "0.68"),
    },
}
"""Model -> form -> size in MB and latency in ms, as published. The times as trained were published in seconds."""
NOTES = (
    "Published times as trained and of TorchScript on a GPU are launches without a synchronisation; here the result is "
    "waited for.",
    "Published TorchScript on a CPU (4.8 ms) and ONNX (91 ms) are not of the same input; here all have the same.",
    "Published int8 has no accuracy; here each form's is measured on the file that is timed. 338 MB: ConvNeXt-Base.",
)
VERDICTS = {
    "faster": "faster for",
    "indistinguishable": "not distinguishable from fp32 for",
    "slower": "slower for",
}


def compare(tables: Tables) -> list[Comparison]:
    """Return one table with one line per model and form, at the smallest batch size that was measured."""
    summary = rows(tables, "summary", lambda row: "/prune-" not in row["variant"])
    batch = min((row["batch_size"] for row in summary), default=1)
    compared = [row for row in summary if row["batch_size"] == batch]
    marks = Marks()
    lines: list[Line] = []
    verdicts: dict[str, str] = {}
    for name, label, published in _models(summary):
        forms = [row for row in compared if row["model"] == label]
        fp32 = fastest([row for row in forms if FORMS["ONNX"](row)])
        for form, fits in FORMS.items():
            candidates = [row for row in forms if fits(row)]
            row = fastest(candidates)
            measured = None
            if row:
                ratio = ABSENT
                if form == "ONNX int8":
                    ratio, verdict = times(tables, fp32, row)
                    verdicts |= {row["model"]: verdict} if verdict else {}
                measured = _measured(row, ratio)
            elif label:
                measured = _missing(tables, form, candidates, marks)
            if form in published or row:
                lines.append(Line((label or name, form), _published(published, form), measured))
    return [
        Comparison(
            "One model, five ways to run it",
            ("model", "form"),
            ("size MB", f"median ms, batch {batch}", "× ONNX fp32", "top-1 %"),
            tuple(lines),
            (*marks.notes, *_int8(tables, verdicts), *NOTES),
        )
    ]


def _models(summary: list[Row]) -> list[tuple[str, str | None, dict[str, tuple[str, str]]]]:
    """Return name, label in this run (None: it has none) and published figures of each model, the study's first."""
    labels = list(dict.fromkeys(row["model"] for row in summary))
    published = {name: next((label for label in labels if name in label), None) for name in MODELS}
    others = [label for label in labels if label not in published.values()]
    return [(name, label, MODELS[name]) for name, label in published.items()] + [(label, label, {}) for label in others]


def _published(model: dict[str, tuple[str, str]], form: str) -> tuple[str, ...] | None:
    """Return the published cells of a form. How many times as fast as ONNX fp32 it is follows from their times."""
    if form not in model:
        return None
    ratio = sig(float(model["ONNX"][1]) / float(model[form][1])) if form == "ONNX int8" else ABSENT
    return (*model[form], ratio, ABSENT)


def _measured(row: Row, ratio: str) -> tuple[str, ...]:
    return figure(row["size_bytes"], lambda size_bytes: sig(size_bytes / 1e6)), timed(row), ratio, percent(row, "top1")


def _missing(tables: Tables, form: str, candidates: list[Row], marks: Marks) -> tuple[str, ...] | None:
    """Return cells that say why none of a form's candidates has figures, None where that is not known."""
    if candidates:
        first = marks.outcome(candidates[0])
    elif form.endswith("GPU") and any(row["gpu"] is None for row in rows(tables, "environments")):
        first = "skipped" + marks.mark("skipped: this machine has no GPU")
    elif form.endswith("GPU") and rows(tables, "environments"):
        first = "skipped" + marks.mark("skipped: the study's devices (benchmark.devices) name no GPU")
    else:
        return None
    return (ABSENT, first, ABSENT, ABSENT)


def _int8(tables: Tables, verdicts: dict[str, str]) -> list[str]:
    """Return notes on whether int8 is faster than fp32. The study found it was for one model of four.

    Parameters
    ----------
    verdicts
        Model -> verdict on its fastest int8 form, compared with its fastest fp32 form.
    """
    slower = [model for model in MODELS.values() if float(model["ONNX"][1]) < float(model["ONNX int8"][1])]
    notes = [f"Published × ONNX fp32 is derived from its times: int8 was slower for {len(slower)} of {len(MODELS)}."]
    if verdicts:
        by_verdict = {verdict: [model for model, own in verdicts.items() if own == verdict] for verdict in VERDICTS}
        parts = [f"{VERDICTS[verdict]} {', '.join(models)}" for verdict, models in by_verdict.items() if models]
        notes.append(
            f"Here int8 is {'; '.join(parts)} (99 % interval of paired rounds; the fastest int8 form of each)."
        )
    not_faster = [model for model, verdict in verdicts.items() if verdict != "faster"]
    if not_faster:
        models = "; ".join(f"{model} ({', '.join(_settings(tables, model))})" for model in not_faster)
        notes.append(f"No int8 setting tried was measurably faster than ONNX fp32 here for {models}.")
    return notes


def _settings(tables: Tables, model: str) -> list[str]:
    """Return the int8 settings in which the unpruned model was quantized."""
    forms = rows(tables, "variants", lambda row: row["model"] == model and row["status"] == "ok")
    return list(
        dict.fromkeys(
            str(row["setting"])
            for row in forms
            if row["precision"] == "int8" and row["format"] == "onnx" and "/prune-" not in row["name"]
        )
    )
