"""Ablate: what each training technique brings and costs alone, what all do together, and what is without any."""

from __future__ import annotations

import json
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.machine import fingerprint
from tasks.machine.devices import Unavailable, choose_device, missing_instructions, missing_triton
from tasks.records import Ablate, Artifact, Model, Output, Prepared, Train
from tasks.training.weights import LIBRARIES, family, pretrained, train_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.caching.work import Work


def ablate(
    work: Work,
    model: Model,
    data: Prepared,
    train: Train,
    settings: Ablate,
    technique: str,
    plain: Artifact | None = None,
) -> Output:
    """Train with one technique ("none", "all" or one of `settings`), from the same start as with any other.

    Parameters
    ----------
    plain
        Rows of `ablations` with none's, which this training's epochs are compared with.

    Returns
    -------
    Output
        A row of `ablations`, and the `epochs` that it is of. Scores are of held-out images, which choose nothing here.
        A technique that this machine has not the means for is a row `skipped` with the reason; "all" is what is left of
        it.
    """
    try:
        settings, without = _available(work, model, train, settings, technique)
    except Unavailable as reason:
        work.log.warning("%s: %s is skipped: %s", model.label, technique, reason)
        skipped = {
            "model": model.label,
            "technique": technique,
            "sets": json.dumps(settings.sets(technique)),
            "status": "skipped",
            "error": str(reason),
        }
        return Output(tables={"ablations": work.rows("ablations", [skipped])})
    asked, changed = settings.train(train, technique), settings.model(model, technique)
    seeded = train_seeds(work, changed, data, asked, f"{model.label}/ablate-{technique}", "ablate")
    # that it is changed, the variant says
    told = [row | {"model": model.label} for row in seeded.epochs]
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
        "epoch_seconds_low": min(later, default=None),
        "epoch_seconds_high": max(later, default=None),
        "verdict": _verdict(later, _plain_row(work, plain)),
        "first_epoch_seconds": fmean(first),
        "images_per_second": median(row["images_per_second"] for row in steady),
        "data_wait": median(row["data_wait"] for row in steady),
        "memory_peak_bytes": max(row["memory_peak_bytes"] for row in epochs),
        "precision": last["precision"],
        "device": last["device"],
        "batch_size": last["batch_size"],
        **quality,
        "macro_f1_std": seeded.spread["test_macro_f1_std"],
        "note": without,
        "status": "ok",
    }
    return Output(tables={"ablations": work.rows("ablations", [row]), "epochs": work.rows("epochs", told)})


def _available(work: Work, model: Model, train: Train, settings: Ablate, technique: str) -> tuple[Ablate, str | None]:
    """Settings without what this machine has not the means for, and which techniques that are where "all" is asked."""
    device = choose_device(train.device)
    missing = {name: why for name in settings.techniques if (why := _missing(settings.sets(name), device))}
    if technique in missing:
        raise Unavailable(missing[technique])
    left = settings.without(missing)
    if technique != "all" or not missing:
        return left, None
    without = "without " + ", ".join(missing)
    if "all" not in left.names:
        raise Unavailable(f"{without} it is one technique alone, or none")
    work.log.warning("%s: all is %s, which cannot run here", model.label, without)
    return left, without


def _missing(sets: Mapping[str, object], device: str) -> str | None:
    """Why what a technique sets would not do here what it is for, or None."""
    if sets.get("fused_pointwise") and (reason := missing_triton(device)):
        return reason
    if sets.get("pin_memory") and not device.startswith("cuda"):
        return "page-locked memory is for a GPU"
    precision = sets.get("precision")
    return missing_instructions(precision, device) if isinstance(precision, str) and precision != "auto" else None


def _plain_row(work: Work, plain: Artifact | None) -> dict[str, Any] | None:
    import polars as pl

    return None if plain is None else pl.read_parquet(work.store.get(plain)).row(0, named=True)


def _verdict(seconds: list[float], plain: dict[str, Any] | None) -> str | None:
    """Against none: faster or slower where no epoch is as long or as short as one of none's."""
    if plain is None or len(seconds) < LEAST_EPOCHS:
        return None
    if max(seconds) < plain["epoch_seconds_low"]:
        return "faster"
    return "slower" if min(seconds) > plain["epoch_seconds_high"] else "indistinguishable"


LEAST_EPOCHS = 4
"""For a verdict: chance alone parts four epochs from four others in 3 of 100 cases (2 of the 70 orders of eight)."""
QUALITY = ("top1", "top1_low", "top1_high", "macro_f1", "macro_f1_low", "macro_f1_high")

ablate_task = stage(
    lambda inputs: f"ablate/{inputs['model'].label}/{inputs['technique']}",
    libraries=(*LIBRARIES, "triton"),
    modules=family,
    # what is available, and how fast
    extra=lambda inputs: pretrained(inputs) | {"machine": fingerprint()},
)(ablate)
