"""Train: from images to weights, once a seed; the seed best on validation goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.measure.handful import handful
from tasks.records import Artifact, Model, Prepared, Train, Trained
from tasks.tables.variants import variant_row
from tasks.training.weights import LIBRARIES, as_they_are, evaluation_row, family, pretrained, train_seeds, weights

if TYPE_CHECKING:
    from tasks.caching.work import Work


def train(work: Work, model: Model, data: Prepared, settings: Train, final: bool) -> Trained:
    """Train `model` to saturation. `final`: no later stage makes weights of it, so these go on to the benchmark."""
    name = f"{model.label}/train"
    tables: dict[str, Artifact] = {}
    if settings.epochs and (told := handful(data.validation_rows)):
        work.log.warning("%s: %s", name, told)
    note: str | None = None
    if settings.epochs:
        seeded = train_seeds(work, model, data, settings, name, "train")
        artifact, setting = seeded.fitted.artifact, f"seed {seeded.seed}"
        f1: float | None = seeded.fitted.validation_macro_f1
        top1: float | None = seeded.fitted.validation_top1
        note = seeded.fitted.note
        tables = {"epochs": work.rows("epochs", seeded.epochs), "seeds": work.rows("seeds", [seeded.spread])}
        evaluation = seeded.evaluation
    else:
        artifact, scores = as_they_are(work, model, data, settings)
        setting, f1, top1 = "not trained", None, None
        if scores is not None:
            f1, top1 = scores.macro_f1, scores.top1
        evaluation = evaluation_row(work, data, name, artifact, settings.device)
    variant = weights(model, data, name, "train", artifact, setting=setting, benchmark=final)
    row = variant_row(variant, validation_top1=top1, validation_macro_f1=f1, note=note)
    return Trained(
        variant=variant,
        train=settings,
        validation_macro_f1=f1,
        tables={
            **tables,
            "variants": work.rows("variants", [row]),
            "evaluations": work.rows("evaluations", [evaluation]),
        },
    )


train_task = stage(
    lambda inputs: f"train/{inputs['model'].label}", libraries=LIBRARIES, modules=family, extra=pretrained
)(train)
