"""S3: accuracy and training time of three architectures on CIFAR-10 and CIFAR-100, with and without techniques."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, figure, percent, rows, score

if TYPE_CHECKING:
    from tasks.published import Row, Tables

HARDWARE = "a machine that the study does not name"
MODELS = {"efficientnet": "EfficientNet-B0", "vit": "ViT", "resnet50": "ResNet-50"}
CIFAR10 = {
    "efficientnet": ("96", "96", ABSENT, "60"),
    "vit": ("97", "97", ABSENT, "120"),
    "resnet50": ("92", "92", ABSENT, "46"),
}
CIFAR100 = {
    "efficientnet": ("90", ABSENT, "81", "66"),
    "vit": (ABSENT, ABSENT, "84", "150"),
    "resnet50": ("75.2", ABSENT, ABSENT, "18"),
}
"""Test accuracy, F1, training accuracy in per cent; minutes."""


def compare(tables: Tables) -> list[Comparison]:
    """Accuracy and time by model, and what each technique alone, all and none give."""
    models = list(dict.fromkeys(row["model"] for row in rows(tables, "epochs")))
    classes = next((row["classes"] for row in rows(tables, "datasets")), None)
    name, figures = ("CIFAR-100", CIFAR100) if classes == 100 else ("CIFAR-10", CIFAR10)
    lines = []
    for family, published in figures.items():
        named = [model for model in models if family in model]
        lines += [Line((MODELS[family], model), published, _trained(tables, model)) for model in named[:1] or [ABSENT]]
    return [
        Comparison(f"Accuracy and training time ({name})", ("model", "here"),
                   ("test accuracy %", "macro F1 %", "training accuracy %", "training min"), tuple(lines),
                   ("Minutes: training and validation of all epochs.",)),
        *_techniques(tables),
    ]  # fmt: skip


def _trained(tables: Tables, model: str) -> tuple[str, ...] | None:
    variant = f"{model}/train"
    weights = rows(tables, "variants", lambda row: row["name"] == variant and row["status"] == "ok")
    epochs = rows(tables, "epochs", lambda row: row["variant"] == variant)
    if not epochs or not weights:
        return None
    tested = score(tables, weights[0])
    validation = [row for row in epochs if row["split"] == "validation"]
    best = max(validation or epochs, key=lambda row: row["macro_f1"])
    train = next(row for row in epochs if row["split"] == "train"
                 and (row["epoch"], row["seed"]) == (best["epoch"], best["seed"]))  # fmt: skip
    minutes = sum(row["seconds"] for row in epochs if row["seed"] == best["seed"]) / 60
    return (
        percent(tested, "top1"),
        percent(tested, "macro_f1"),
        percent({"top1": train["top1"]}, "top1"),
        figure(minutes),
    )


def _techniques(tables: Tables) -> list[Comparison]:
    """What the study says that it used and never compared."""
    found: dict[str, list[Row]] = {}
    for row in rows(tables, "ablations"):
        found.setdefault(row["model"], []).append(row)
    columns = ("epoch s", "first epoch s", "images/s", "memory MB", "test accuracy %", "macro F1 %")
    return [
        Comparison(f"With and without each technique: {model}", ("technique",), columns,
                   tuple(Line((row["technique"],), None, technique(row)) for row in group),
                   ("The study has no table of with against without, and no memory figures.",))
        for model, group in found.items()
    ]  # fmt: skip


def technique(row: Row) -> tuple[str, ...]:
    """A row of `ablations`: seconds an epoch, the first one's, images a second, memory, accuracy, F1."""
    if row["status"] != "ok":
        return (f"{row['status']}: {row['error']}", *[ABSENT] * 5)
    memory = figure(row["memory_peak_bytes"], lambda value: f"{value / 1e6:.0f}")
    times = [figure(row[name]) for name in ("epoch_seconds", "first_epoch_seconds", "images_per_second")]
    return (*times, memory, percent(row, "top1"), percent(row, "macro_f1"))
