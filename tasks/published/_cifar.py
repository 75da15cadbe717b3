"""S3's figures, CIFAR-10 and CIFAR-100: both halves of its table, whichever of the two ran here."""

from __future__ import annotations

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
"""Test accuracy, F1, training accuracy in per cent; time."""
COMMANDS = {"CIFAR-10": "cifar-architectures", "CIFAR-100": "cifar100-architectures"}
COLUMNS = ("test accuracy %", "macro F1 %", "training accuracy %", "time")
TECHNIQUE_COLUMNS = ("epoch s", "× vanilla", "images/s", "memory MB", "test accuracy %", "macro F1 %")


def compare(tables: Tables, own: str) -> list[Comparison]:
    """Both halves, that of this run first, and what each technique alone, all and none give.

    `own`: the half that this run's study is of; images that are known to be CIFAR-10 or CIFAR-100 say it themselves.
    """
    data = images_here(tables)
    own = next((half for half in ("CIFAR-100", "CIFAR-10") if data.startswith(half)), own)
    halves = sorted(HALVES, key=lambda half: half != own)
    return [*(_half(tables, half, data if half == own else None) for half in halves), *_techniques(tables)]


def _half(tables: Tables, half: str, data: str | None) -> Comparison:
    """A half of the table; `data`: the images that it is compared on here, none: not in this run."""
    models = list(dict.fromkeys(row["model"] for row in rows(tables, "epochs"))) if data else []
    lines = []
    for family, published in HALVES[half].items():
        named = next((model for model in models if family in model), None)
        here = _trained(tables, named) if named else (ABSENT,) * len(COLUMNS)
        lines.append(Line((MODELS[family], named or ABSENT), published, here))
    others = [model for model in models if not any(family in model for family in HALVES[half])]
    lines += [Line((ABSENT, model), None, _trained(tables, model)) for model in others]
    if data is None:
        notes: tuple[str, ...] = (
            f"Not of this run: `burnish run {COMMANDS[half]}` runs it (--scale as for this one).",
        )
    else:
        notes = (
            "Training accuracy here is a running one: taken during the chosen epoch, while the weights still "
            "change and on "
            "images as they are augmented; it may lie below the test accuracy.",
            "Time here: training and validation of all epochs.",
        )
    title = f"Accuracy and training time, published on {half}; here: {data or 'not run'}"
    return Comparison(title, ("model", "here"), COLUMNS, tuple(lines), notes)


def _trained(tables: Tables, model: str) -> tuple[str, ...] | None:
    variant = f"{model}/train"
    weights = rows(tables, "variants", lambda row: row["name"] == variant and row["status"] == "ok")
    epochs = rows(tables, "epochs", lambda row: row["variant"] == variant)
    if not epochs or not weights:
        return None
    tested = score(tables, weights[0])
    validation = [row for row in epochs if row["split"] == "validation"]
    best = max(validation or epochs, key=lambda row: row["macro_f1"])
    train = next(
        row
        for row in epochs
        if row["split"] == "train" and (row["epoch"], row["seed"]) == (best["epoch"], best["seed"])
    )
    seconds = sum(row["seconds"] for row in epochs if row["seed"] == best["seed"])
    return (
        percent(tested, "top1"),
        percent(tested, "macro_f1"),
        percent({"top1": train["top1"]}, "top1"),
        duration(seconds),
    )


def _techniques(tables: Tables) -> list[Comparison]:
    """What the study says that it used and never compared; a table a model."""
    made = []
    found = by_model(tables)
    for model, group in found.items():
        marks, plain = Marks(), group.get("none", {})
        lines = tuple(
            Line((technique,), None, figures(row, plain, TECHNIQUE_COLUMNS, marks)) for technique, row in group.items()
        )
        about = ("The study has no table of with against without, and no memory figures.", EPOCHS, MEMORY)
        notes = marks.notes + (about if model == list(found)[-1] else ())
        made.append(
            Comparison(f"With and without each technique: {model}", ("technique",), TECHNIQUE_COLUMNS, lines, notes)
        )
    return made
