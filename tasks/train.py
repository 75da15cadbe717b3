"""Train: from images to weights, once per seed. Later stages continue from the seed that is best on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.measure.handful import handful
from tasks.records import Model, Prepared, Train, Trained
from tasks.tables.variants import variant_row
from tasks.training.weights import (
    LIBRARIES,
    evaluation_row,
    family,
    pretrained,
    train_seeds,
    untrained,
    weights_variant,
)

if TYPE_CHECKING:
    from tasks.caching.work import Work


def train(work: Work, model: Model, data: Prepared, settings: Train, final: bool) -> Trained:
    """Train `model` until it is best on validation, or with 0 epochs leave its weights as they are.

    `final` says that no later stage makes other weights of these, so that they are benchmarked.
    """
    if settings.epochs:
        return _trained(work, model, data, settings, final)
    return _not_trained(work, model, data, settings, final)


def _trained(work: Work, model: Model, data: Prepared, settings: Train, final: bool) -> Trained:
    name = f"{model.label}/train"
    if caution := handful(data.validation_rows):
        work.log.warning("%s: %s", name, caution)
    seeded = train_seeds(work, model, data, settings, variant=name, stage="train")
    fitted = seeded.fitted
    variant = weights_variant(
        model, data, fitted.artifact, name=name, stage="train", setting=f"seed {seeded.seed}", benchmark=final
    )
    row = variant_row(
        variant,
        validation_top1=fitted.validation_top1,
        validation_macro_f1=fitted.validation_macro_f1,
        note=fitted.note,
    )
    return Trained(
        variant=variant,
        train=settings,
        validation_macro_f1=fitted.validation_macro_f1,
        tables={
            "epochs": work.rows("epochs", seeded.epochs),
            "seeds": work.rows("seeds", [seeded.spread]),
            "variants": work.rows("variants", [row]),
            "evaluations": work.rows("evaluations", [seeded.evaluation]),
        },
    )


def _not_trained(work: Work, model: Model, data: Prepared, settings: Train, final: bool) -> Trained:
    name = f"{model.label}/train"
    artifact, scores = untrained(work, model, data, settings)
    variant = weights_variant(model, data, artifact, name=name, stage="train", setting="not trained", benchmark=final)
    measured: dict[str, Any] = {}
    if scores is not None:
        measured = {"validation_top1": scores.top1, "validation_macro_f1": scores.macro_f1}
    evaluation = evaluation_row(work, data, name, artifact, settings.device)
    return Trained(
        variant=variant,
        train=settings,
        validation_macro_f1=measured.get("validation_macro_f1"),
        tables={
            "variants": work.rows("variants", [variant_row(variant, **measured)]),
            "evaluations": work.rows("evaluations", [evaluation]),
        },
    )


train_task = stage(
    lambda inputs: f"train/{inputs['model'].label}", libraries=LIBRARIES, modules=family, extra=pretrained
)(train)
