"""S3's figures on CIFAR-10 and CIFAR-100: both halves of its table, whichever of the two this run trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, Marks, duration, images_here, percent, rows, score
from tasks.published._ablations import EPOCHS, MEMORY, by_model, figures

if TYPE_CHECKING:
    from tasks.published import Tables

HARDWARE = "a machine that the study does not name"
MODELS = {"efficientnet": "EfficientNet-B0", "vit": "ViT", "resnet50": "ResNet-50"}
HALVES = {
    "CIFAR-10": {
        "efficientnet": ("96", "96", ABSENT, "1 h"),
        "vit": ("97", "97", ABSENT, "2 h"),
        "resnet50": ("92", "92", ABSENT, "46 min"),
    },
    "CIFAR-100": {
        "efficientnet": ("90", ABSENT, "81", "1.1 h"),
        "vit": (ABSENT, ABSENT, "84", "2.5 h"),
        "resnet50": ("75.2", ABSENT, ABSENT, "18 min"),
    },
}
"""Images -> model -> test accuracy, F1 and training accuracy in per cent, and training time, as published."""
PRESETS = {"CIFAR-10": "cifar-architectures", "CIFAR-100": "cifar100-architectures"}
COLUMNS = ("test accuracy %", "macro F1 %", "training accuracy %", "time")
TECHNIQUE_COLUMNS = ("epoch s", "× vanilla", "images/s", "memory MB", "test accuracy %", "macro F1 %")


def compare(tables: Tables, own: str) -> list[Comparison]:
    """Return both halves, that of this run first, and what each technique alone, all together and none of them give.

    Parameters
    ----------
    own
        The half that this run's study is about. It counts where the name of the images does not say which they are.
    """
    data = images_here(tables)
    own = next((half for half in ("CIFAR-100", "CIFAR-10") if data.startswith(half)), own)
    halves = sorted(HALVES, key=lambda half: half != own)
    return [*(_half(tables, half, data if half == own else None) for half in halves), *_techniques(tables)]


def _half(tables: Tables, half: str, data: str | None) -> Comparison:
    """Return one half of the table. `data` names the images of this run, None where it is not a run of this half."""
    models = list(dict.fromkeys(row["model"] for row in rows(tables, "epochs"))) if data else []
    lines = []
    for family, published in HALVES[half].items():
        model = next((model for model in models if family in model), None)
        measured = _trained(tables, model) if model else (ABSENT,) * len(COLUMNS)
        lines.append(Line((MODELS[family], model or ABSENT), published, measured))
    others = [model for model in models if not any(family in model for family in HALVES[half])]
    lines += [Line((ABSENT, model), None, _trained(tables, model)) for model in others]
    if data is None:
        notes: tuple[str, ...] = (f"Not of this run: `burnish run {PRESETS[half]}` runs it (--scale as for this one).",)
    else:
        notes = (
            "Training accuracy here is a running one: it is taken during the chosen epoch, while the weights still "
            "change and on augmented images, so it may lie below the test accuracy.",
            "Time here: training and validation of all epochs.",
        )
    title = f"Accuracy and training time, published on {half}; here: {data or 'not run'}"
    return Comparison(title, ("model", "here"), COLUMNS, tuple(lines), notes)


def _trained(tables: Tables, model: str) -> tuple[str, ...] | None:
    """Return this run's figures of a model in `COLUMNS`, None where it was not trained."""
    variant = f"{model}/train"
    weights = rows(tables, "variants", lambda row: row["name"] == variant and row["status"] == "ok")
    epochs = rows(tables, "epochs", lambda row: row["variant"] == variant)
    if not epochs or not weights:
        return None
    tested = score(tables, weights[0])
    validation = [row for row in epochs if row["split"] == "validation"]
    best = max(validation or epochs, key=lambda row: row["macro_f1"])
    best_epoch = (best["epoch"], best["seed"])
    train = next(row for row in epochs if row["split"] == "train" and (row["epoch"], row["seed"]) == best_epoch)
    seconds = sum(row["seconds"] for row in epochs if row["seed"] == best["seed"])
    return (
        percent(tested, "top1"),
        percent(tested, "macro_f1"),
        percent({"top1": train["top1"]}, "top1"),
        duration(seconds),
    )


def _techniques(tables: Tables) -> list[Comparison]:
    """Return one table per model of the techniques that the study says it used, and never compared."""
    models = by_model(tables)
    comparisons = []
    for model, techniques in models.items():
        marks, plain = Marks(), techniques.get("none", {})
        lines = tuple(
            Line((technique,), None, figures(row, plain, TECHNIQUE_COLUMNS, marks))
            for technique, row in techniques.items()
        )
        title = f"With and without each technique: {model}"
        comparisons.append(Comparison(title, ("technique",), TECHNIQUE_COLUMNS, lines, marks.notes))
    if comparisons:
        about = (
            "The study does not compare training with and without them; it has no memory figures.",
            EPOCHS,
            MEMORY,
        )
        comparisons[-1] = replace(comparisons[-1], notes=comparisons[-1].notes + about)
    return comparisons
