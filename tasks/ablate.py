"""Ablate: what each training technique brings and costs by itself, and what all techniques together do."""

from __future__ import annotations

import json
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.machine import fingerprint
from tasks.machine.devices import Unavailable, choose_device, missing_instructions, missing_triton
from tasks.records import Ablate, Artifact, Model, Output, Prepared, Train
from tasks.training.weights import LIBRARIES, Seeded, family, pretrained, train_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.caching.work import Work

LEAST_EPOCHS = 4
"""Epochs after the first that a verdict needs: by chance alone, four epochs are all shorter or all longer than four
others in 3 of 100 cases (2 of the 70 orders of eight)."""
QUALITY = ("top1", "top1_low", "top1_high", "macro_f1", "macro_f1_low", "macro_f1_high")
"""Columns that a row of `ablations` takes from the row of `evaluations`."""


def ablate(
    work: Work,
    model: Model,
    data: Prepared,
    train: Train,
    settings: Ablate,
    technique: str,
    plain: Artifact | None = None,
) -> Output:
    """Train with one technique ("none", "all" or one of `settings`), from the same start as with every other.

    Parameters
    ----------
    plain
        Rows of `ablations` with the row of "none", with whose epochs this training's are compared.

    Returns
    -------
    Output
        A row of `ablations`, and the rows of `epochs` that it sums up. Scores are of test images, by which nothing is
        chosen here. A technique that this machine cannot run is a row `skipped` with the reason; "all" leaves such
        techniques out.
    """
    try:
        settings, note = _available(work, model, train, settings, technique)
    except Unavailable as reason:
        work.log.warning("%s: %s is skipped: %s", model.label, technique, reason)
        row = _identity(model, settings, technique) | {"status": "skipped", "error": str(reason)}
        return Output(tables={"ablations": work.rows("ablations", [row])})
    training = settings.train(train, technique)
    changed_model = settings.model(model, technique)
    variant = f"{model.label}/ablate-{technique}"
    seeded = train_seeds(work, changed_model, data, training, variant=variant, stage="ablate")
    # A technique may change the model. The variant's name says so; the column `model` says which models compare.
    epochs: list[dict[str, Any]] = [row | {"model": model.label} for row in seeded.epochs]
    row = {
        **_identity(model, settings, technique),
        "seeds": len(training.seeds),
        "epochs": training.epochs,
        **_figures(epochs, _plain_row(work, plain)),
        **_quality(seeded),
        "note": note,
        "status": "ok",
    }
    return Output(tables={"ablations": work.rows("ablations", [row]), "epochs": work.rows("epochs", epochs)})


def _identity(model: Model, settings: Ablate, technique: str) -> dict[str, Any]:
    """Return the columns that say which training a row of `ablations` is about."""
    return {"model": model.label, "technique": technique, "sets": json.dumps(settings.sets(technique))}


def _figures(epochs: list[dict[str, Any]], plain: dict[str, Any] | None) -> dict[str, Any]:
    """Return the columns of `ablations` that sum up rows of `epochs`; `plain` is the row of "none".

    What compiles does so in the first epoch, so that its time stands apart.
    """
    training = [row for row in epochs if row["split"] == "train"]
    first = [row for row in training if row["epoch"] == 1]
    later = [row for row in training if row["epoch"] > 1]
    seconds = [row["seconds"] for row in later]
    return {
        "epoch_seconds": median(seconds) if seconds else None,
        "epoch_seconds_low": min(seconds, default=None),
        "epoch_seconds_high": max(seconds, default=None),
        "verdict": _verdict(seconds, plain),
        "first_epoch_seconds": fmean(row["seconds"] + (row["compile_seconds"] or 0.0) for row in first),
        "images_per_second": median(row["images_per_second"] for row in later or training),
        "data_wait": median(row["data_wait"] for row in later or training),
        "memory_peak_bytes": max(row["memory_peak_bytes"] for row in training),
        "precision": training[-1]["precision"],
        "device": training[-1]["device"],
        "batch_size": training[-1]["batch_size"],
    }


def _quality(seeded: Seeded) -> dict[str, object]:
    """Return the columns of `ablations` about prediction quality on test images."""
    quality = {column: seeded.evaluation[column] for column in QUALITY}
    return quality | {"macro_f1_std": seeded.spread["test_macro_f1_std"]}


def _available(work: Work, model: Model, train: Train, settings: Ablate, technique: str) -> tuple[Ablate, str | None]:
    """Return the settings without techniques that this machine cannot run, and for "all" a note that names these.

    Raises
    ------
    Unavailable
        If it cannot run `technique` itself, or can run at most one of "all".
    """
    device = choose_device(train.device)
    missing: dict[str, str] = {}
    for name in settings.techniques:
        if reason := _missing(settings.sets(name), device):
            missing[name] = reason
    if technique in missing:
        raise Unavailable(missing[technique])
    available = settings.without(missing)
    if technique != "all" or not missing:
        return available, None
    names = ", ".join(missing)
    if "all" not in available.names:
        raise Unavailable(f"without {names} it is one technique alone, or none")
    work.log.warning("%s: all techniques together leaves out %s, which this machine cannot run", model.label, names)
    return available, f"without {names}"


def _missing(sets: Mapping[str, object], device: str) -> str | None:
    """Return why this machine cannot run a technique that sets these fields, or None where it can."""
    if sets.get("fused_pointwise") and (reason := missing_triton(device)):
        return reason
    if sets.get("pin_memory") and not device.startswith("cuda"):
        return "page-locked memory is for a GPU"
    precision = sets.get("precision")
    return missing_instructions(precision, device) if isinstance(precision, str) and precision != "auto" else None


def _plain_row(work: Work, plain: Artifact | None) -> dict[str, Any] | None:
    """Return the row of "none" from a fragment of `ablations`."""
    import polars as pl

    return None if plain is None else pl.read_parquet(work.store.get(plain)).row(0, named=True)


def _verdict(seconds: list[float], plain: dict[str, Any] | None) -> str | None:
    """Compare a training's epochs with those of "none".

    It is faster or slower only where each of its epochs is shorter, or each longer, than every one of "none".
    """
    if plain is None or len(seconds) < LEAST_EPOCHS:
        return None
    if max(seconds) < plain["epoch_seconds_low"]:
        return "faster"
    return "slower" if min(seconds) > plain["epoch_seconds_high"] else "indistinguishable"


ablate_task = stage(
    lambda inputs: f"ablate/{inputs['model'].label}/{inputs['technique']}",
    libraries=(*LIBRARIES, "triton"),
    modules=family,
    # The machine decides which techniques can run, and how fast they are.
    extra=lambda inputs: pretrained(inputs) | {"machine": fingerprint()},
)(ablate)
