"""Ablate: what each training technique brings and costs alone, what all do together, and what is without any."""

from __future__ import annotations

import json
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from tasks.caching import stage
from tasks.records import Ablate, Model, Output, Prepared, Train
from tasks.train import LIBRARIES, family, pretrained, train_seeds

if TYPE_CHECKING:
    from tasks.work import Work


def ablate(work: Work, model: Model, data: Prepared, train: Train, settings: Ablate, technique: str) -> Output:
    """Train with one technique ("none", "all" or one of `settings`), from the same start as with any other.

    Returns
    -------
    Output
        A row of `ablations`, and the `epochs` that it is of. Scores are of held-out images, which choose nothing here.
    """
    asked, changed = settings.train(train, technique), settings.model(model, technique)
    seeded = train_seeds(work, changed, data, asked, f"{model.label}/ablate-{technique}", "ablate")
    told = [row | {"model": model.label} for row in seeded.epochs]  # that it is changed, the variant says
    epochs: list[dict[str, Any]] = [row for row in told if row["split"] == "train"]
    first = [row["seconds"] + (row["compile_seconds"] or 0.0) for row in epochs if row["epoch"] == 1]
    later = [row["seconds"] for row in epochs if row["epoch"] > 1]
    last = epochs[-1]
    steady = [row for row in epochs if row["epoch"] > 1] or epochs
    quality = {key: seeded.evaluation[key] for key in QUALITY}
    row = {
        "model": model.label,
        "technique": technique,
        "sets": json.dumps(settings.sets(technique)),
        "seeds": len(asked.seeds),
        "epochs": asked.epochs,
        "epoch_seconds": median(later) if later else None,
        "first_epoch_seconds": fmean(first),
        "images_per_second": median(row["images_per_second"] for row in steady),
        "data_wait": median(row["data_wait"] for row in steady),
        "memory_peak_bytes": max(row["memory_peak_bytes"] for row in epochs),
        "precision": last["precision"],
        "device": last["device"],
        "batch_size": last["batch_size"],
        **quality,
        "macro_f1_std": seeded.spread["test_macro_f1_std"],
        "status": "ok",
    }
    return Output(tables={"ablations": work.rows("ablations", [row]), "epochs": work.rows("epochs", told)})


QUALITY = ("top1", "top1_low", "top1_high", "macro_f1", "macro_f1_low", "macro_f1_high")

ablate_task = stage(
    lambda inputs: f"ablate/{inputs['model'].label}/{inputs['technique']}",
    libraries=LIBRARIES, modules=family, extra=pretrained,
)(ablate)  # fmt: skip
