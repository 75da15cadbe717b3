"""Augment: the tuned model under several augmentation policies; the best on validation goes on, and "none" may win."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.records import Augment, Model, Prepared, Train, Trained, Variant
from tasks.tables.variants import LONGER, TRY, variant_row
from tasks.training.fit import Fitted
from tasks.training.weights import LIBRARIES, Seeded, family, images_seen, pretrained, train_seeds, weights

if TYPE_CHECKING:
    from tasks.caching.work import Work


def _images(data: Prepared, settings: Augment, tried: Train, full: Train | None = None) -> int:
    """Training images that the stage sees, over all epochs, where each policy is tried and then one is trained in
    full."""
    return len(settings.policies) * images_seen(data, tried) + (images_seen(data, full) if full else 0)


def augment(work: Work, model: Model, data: Prepared, tuned: Trained, settings: Augment) -> Trained:
    """Train under each policy and keep the best; the tuned weights win if none beats them on validation.

    With `train_limit`, or fewer `epochs` than the tuned training, policies are tried in short (variants ``...-try``)
    and the best is trained in full. With more `epochs` every policy is trained so long, the tuned training's own too
    (variant ``...-long``): what more epochs bring alone is no merit of a policy.
    """
    base = tuned.train
    # what is trained has validation images
    assert tuned.validation_macro_f1 is not None
    epochs = settings.epochs or base.epochs
    full = base.model_copy(update={"epochs": max(epochs, base.epochs)})
    limit = settings.train_limit or base.train_limit
    short = base.model_copy(update={"epochs": epochs, "train_limit": limit})
    in_short = settings.train_limit is not None or epochs < base.epochs
    images, seen = _images(data, settings, short, full) if in_short else _images(data, settings, full), 0
    trained: list[Seeded] = []
    found: list[tuple[Variant, Fitted]] = []

    def run(policy: str, how: Train, suffix: str) -> Trained:
        nonlocal seen
        before, seen = seen, seen + images_seen(data, how)
        part = work.part(min(before / images, 1.0), min(seen / images, 1.0))
        name = f"{model.label}/augment-{policy}{suffix}"
        train_settings = how.model_copy(update={"augment": policy})
        trained.append(train_seeds(part, model, data, train_settings, name, "augment"))
        fitted = trained[-1].fitted
        setting = f"{policy}, longer" if suffix == LONGER else policy
        variant = weights(model, data, name, "augment", fitted.artifact, parent=tuned.variant.name, setting=setting)
        found.append((variant, fitted))
        work.log.info(
            "%s: %d epochs, validation F1 %.4f of %d images",
            name,
            how.epochs,
            fitted.validation_macro_f1,
            data.validation_rows,
        )
        return Trained(variant=variant, train=train_settings, validation_macro_f1=fitted.validation_macro_f1)

    finals = settings.policies
    if in_short:
        tries = {policy: run(policy, short, TRY).validation_macro_f1 or 0.0 for policy in settings.policies}
        best = max(tries, key=lambda policy: tries[policy])
        finals = tuple(policy for policy in settings.policies if policy in (best, base.augment))
    # The tuned weights under a name of this stage, so that the lineage has one end.
    winner = tuned.model_copy(
        update={
            "tables": {},
            "variant": tuned.variant.model_copy(
                update={
                    "name": f"{model.label}/augment-{base.augment}",
                    "stage": "augment",
                    "parent": tuned.variant.name,
                    "setting": base.augment,
                }
            ),
        }
    )
    for policy in finals:
        own = policy == base.augment
        if own and full == base:
            # it would train to the same weights
            continue
        made = run(policy, full, LONGER if own else "")
        if (made.validation_macro_f1 or 0.0) > (winner.validation_macro_f1 or 0.0):
            winner = made
    kept = winner.variant.model_copy(update={"benchmark": True})
    work.log.info(
        "%s: %s goes on with validation F1 %.4f of %d images",
        model.label,
        kept.name,
        winner.validation_macro_f1,
        data.validation_rows,
    )
    rows = [
        variant_row(
            kept if v.name == kept.name else v,
            validation_top1=f.validation_top1,
            validation_macro_f1=f.validation_macro_f1,
            note=f.note,
        )
        for v, f in found
    ]
    if all(v.name != kept.name for v, _ in found):
        rows.append(variant_row(kept, validation_macro_f1=tuned.validation_macro_f1))
    return Trained(
        variant=kept,
        train=winner.train,
        validation_macro_f1=winner.validation_macro_f1,
        tables={
            "epochs": work.rows("epochs", [row for seeded in trained for row in seeded.epochs]),
            "seeds": work.rows("seeds", [seeded.spread for seeded in trained]),
            "variants": work.rows("variants", rows),
            "evaluations": work.rows("evaluations", [seeded.evaluation for seeded in trained]),
        },
    )


augment_task = stage(
    lambda inputs: f"augment/{inputs['model'].label}", libraries=LIBRARIES, modules=family, extra=pretrained
)(augment)
