"""Augment: the tuned model under several augmentation policies; the best on validation goes on, and "none" may win."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching import stage
from tasks.fit import Fitted
from tasks.records import Augment, Model, Prepared, Train, Trained, Variant
from tasks.train import LIBRARIES, Seeded, family, pretrained, train_seeds, weights
from tasks.variants import variant_row

if TYPE_CHECKING:
    from tasks.work import Work


def augment(work: Work, model: Model, data: Prepared, tuned: Trained, settings: Augment) -> Trained:
    """Train under each policy, give each a score, keep the best.

    With `epochs` or `train_limit` set, policies are tried in short (variants ``.../augment-<policy>-try``) and the best is
    retrained in full. The tuned weights win if no policy beats them on validation.
    """
    assert tuned.validation_macro_f1 is not None  # what is trained has validation images
    tried = settings.epochs is not None or settings.train_limit is not None
    short = tuned.train.model_copy(update={"train_limit": settings.train_limit or tuned.train.train_limit,
                                           "epochs": settings.epochs or tuned.train.epochs})  # fmt: skip
    trained: list[Seeded] = []
    found: list[tuple[Variant, Fitted]] = []

    def run(policy: str, suffix: str, train_settings: Train) -> Fitted:
        name = f"{model.label}/augment-{policy}{suffix}"
        trained.append(train_seeds(work, model, data, train_settings, name, "augment"))
        fitted = trained[-1].fitted
        variant = weights(model, data, name, "augment", fitted.artifact, parent=tuned.variant.name, setting=policy)
        found.append((variant, fitted))
        work.log.info("%s: validation F1 %.4f", name, fitted.validation_macro_f1)
        return fitted

    scores = {}
    for policy in settings.policies:
        if policy == "none" and not tried:
            scores[policy] = tuned.validation_macro_f1  # it would train to the same weights
            continue
        fitted = run(policy, "-try" if tried else "", short.model_copy(update={"augment": policy}))
        scores[policy] = fitted.validation_macro_f1
    best = max(scores, key=lambda policy: scores[policy])
    if tried and best != "none":
        run(best, "", tuned.train.model_copy(update={"augment": best}))
    winner: tuple[Variant, float] = (tuned.variant, tuned.validation_macro_f1)
    for variant, fitted in found:
        if not variant.name.endswith("-try") and fitted.validation_macro_f1 > winner[1]:
            winner = (variant, fitted.validation_macro_f1)
    policy = winner[0].setting if winner[0].stage == "augment" else "none"
    work.log.info("%s: policy %s wins with validation F1 %.4f; scores: %s", model.label, policy, winner[1],
                  ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))  # fmt: skip
    if policy == "none":  # the tuned weights under a name of this stage, so that the lineage has one end
        kept = tuned.variant.model_copy(update={"name": f"{model.label}/augment-none", "stage": "augment",
                                                "parent": tuned.variant.name, "setting": "none"})  # fmt: skip
    else:
        kept = winner[0]
    kept = kept.model_copy(update={"benchmark": True})
    rows = [
        variant_row(
            kept if v.name == kept.name else v,
            validation_top1=f.validation_top1,
            validation_macro_f1=f.validation_macro_f1,
        )
        for v, f in found
    ]
    if policy == "none":
        rows.append(variant_row(kept, validation_macro_f1=tuned.validation_macro_f1))
    return Trained(
        variant=kept,
        train=tuned.train.model_copy(update={"augment": policy}),
        validation_macro_f1=winner[1],
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
