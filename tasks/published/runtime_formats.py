"""S4: size and execution time of four models as trained, in ONNX, quantized, and in TorchScript."""

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
"""Megabytes, milliseconds (as trained: published in seconds)."""
VERDICTS = {
    "faster": "faster for",
    "indistinguishable": "not distinguishable from fp32 for",
    "slower": "slower for",
}


def compare(tables: Tables) -> list[Comparison]:
    """A line a model and form, at the smallest batch size measured; models that the study has not come last."""
    summary = rows(tables, "summary", lambda row: "/prune-" not in row["variant"])
    batch = min((row["batch_size"] for row in summary), default=1)
    labels = list(dict.fromkeys(row["model"] for row in summary))
    marks, lines, verdicts = Marks(), [], dict[str, str]()
    of_study = {family: next((label for label in labels if family in label), None) for family in MODELS}
    asked = [(family, label, MODELS[family]) for family, label in of_study.items()]
    asked += [(label, label, {}) for label in labels if label not in of_study.values()]
    for family, label, published in asked:
        ours = [row for row in summary if row["model"] == label and row["batch_size"] == batch]
        fp32 = fastest([row for row in ours if FORMS["ONNX"](row)])
        for form, fits in FORMS.items():
            found = [row for row in ours if fits(row)]
            row, figures = fastest(found), published.get(form)
            if row and form == "ONNX int8":
                ratio, verdict = times(tables, fp32, row)
                verdicts |= {row["model"]: verdict} if verdict else {}
            else:
                ratio = ABSENT
            here = _here(row, ratio) if row else _missing(tables, form, found, marks) if label else None
            if figures or row:
                lines.append(Line((label or family, form), _published(published, form), here))
    return [
        Comparison(
            "One model, five ways to run it",
            ("model", "form"),
            ("size MB", f"median ms, batch {batch}", "× ONNX fp32", "top-1 %"),
            tuple(lines),
            (
                *marks.notes,
                *_int8(tables, verdicts),
                "Published times as trained and of TorchScript on a GPU are launches without a synchronisation; "
                "here the result "
                "is waited for.",
                (
                    "Published TorchScript on a CPU (4.8 ms) and ONNX (91 ms) are not of the same input; here all "
                    "have the same."
                ),
                (
                    "Published int8 has no accuracy; here each form's is measured on the file that is timed. 338 MB: "
                    "ConvNeXt-Base."
                ),
            ),
        )
    ]


def _published(model: dict[str, tuple[str, str]], form: str) -> tuple[str, ...] | None:
    if form not in model:
        return None
    ratio = sig(float(model["ONNX"][1]) / float(model[form][1])) if form == "ONNX int8" else ABSENT
    return (*model[form], ratio, ABSENT)


def _here(row: Row, ratio: str) -> tuple[str, ...]:
    return figure(row["size_bytes"], lambda v: sig(v / 1e6)), timed(row), ratio, percent(row, "top1")


def _missing(tables: Tables, form: str, found: list[Row], marks: Marks) -> tuple[str, ...] | None:
    """Why a form has no figures; None where nothing is known of it."""
    if found:
        first = marks.outcome(found[0])
    elif form.endswith("GPU") and any(row["gpu"] is None for row in rows(tables, "environments")):
        first = "skipped" + marks.mark("skipped: this machine has no GPU")
    elif form.endswith("GPU") and rows(tables, "environments"):
        first = "skipped" + marks.mark("skipped: the study's devices (benchmark.devices) name no GPU")
    else:
        return None
    return (ABSENT, first, ABSENT, ABSENT)


def _int8(tables: Tables, verdicts: dict[str, str]) -> list[str]:
    """Whether int8 is faster than fp32, which the study found for one model of four and did not ask why."""
    slower = [model for model in MODELS.values() if float(model["ONNX"][1]) < float(model["ONNX int8"][1])]
    notes = [f"Published × ONNX fp32 is derived from its times: int8 was slower for {len(slower)} of {len(MODELS)}."]
    if verdicts:
        named = {verdict: [model for model, found in verdicts.items() if found == verdict] for verdict in VERDICTS}
        told = "; ".join(f"{VERDICTS[verdict]} {', '.join(models)}" for verdict, models in named.items() if models)
        notes.append(f"Here int8 is {told} (99 % interval of paired rounds; the fastest int8 form of each).")
    if not_faster := [model for model, verdict in verdicts.items() if verdict != "faster"]:
        tried = rows(
            tables,
            "variants",
            lambda row: (
                row["status"] == "ok"
                and row["precision"] == "int8"
                and row["format"] == "onnx"
                and "/prune-" not in row["name"]
            ),
        )
        settings = {
            model: ", ".join(dict.fromkeys(str(row["setting"]) for row in tried if row["model"] == model))
            for model in not_faster
        }
        told = "; ".join(f"{model} ({names})" for model, names in settings.items())
        notes.append(f"No int8 setting tried was measurably faster than ONNX fp32 here for {told}.")
    return notes
