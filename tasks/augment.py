"""Augment: train under several augmentation policies and keep the one that is best on validation, or keep none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.records import Augment, Model, Prepared, Train, Trained
from tasks.tables.variants import LONGER, TRY, variant_row
from tasks.training.weights import LIBRARIES, Seeded, family, images_seen, pretrained, train_seeds, weights_variant

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.records import Artifact, Variant


def augment(work: Work, model: Model, data: Prepared, tuned: Trained, settings: Augment) -> Trained:
    """Train under each policy and keep the best one. The tuned weights win where none beats them on validation.

    With `train_limit`, or with fewer `epochs` than the tuned training had, each policy is tried in short (variants
    ``...-try``), and the best one is trained in full. With more `epochs`, every policy is trained for so many epochs,
    and so is the tuned training itself (variant ``...-long``): what more epochs bring is no merit of a policy.
    """
    base = tuned.train
    epochs = settings.epochs or base.epochs
    full = base.model_copy(update={"epochs": max(epochs, base.epochs)})
    short = base.model_copy(update={"epochs": epochs, "train_limit": settings.train_limit or base.train_limit})
    in_short = settings.train_limit is not None or epochs < base.epochs
    images = len(settings.policies) * images_seen(data, short if in_short else full)
    if in_short:
        images += images_seen(data, full)
    trainings = _Trainings(work=work, model=model, data=data, parent=tuned.variant, images=images)
    policies = settings.policies
    if in_short:
        best = _best_in_short(trainings, policies, short)
        policies = tuple(policy for policy in policies if policy in (best, base.augment))
    winner = _as_before(model, tuned)
    for policy in policies:
        is_of_tuned = policy == base.augment
        # Without more epochs, the tuned training's own policy would give the tuned weights again.
        if is_of_tuned and full == base:
            continue
        trained = trainings.train(policy, full, LONGER if is_of_tuned else "")
        if _score(trained) > _score(winner):
            winner = trained
    variant = winner.variant.model_copy(update={"benchmark": True})
    work.log.info(
        "%s: %s chosen (validation F1 %.4f of %d images)",
        model.label,
        variant.name,
        winner.validation_macro_f1,
        data.validation_rows,
    )
    return Trained(
        variant=variant,
        train=winner.train,
        validation_macro_f1=winner.validation_macro_f1,
        tables=trainings.tables(variant, _score(tuned)),
    )


@dataclass(kw_only=True)
class _Trainings:
    """The trainings of this stage, as they are done one after the other."""

    work: Work
    model: Model
    data: Prepared
    parent: Variant
    """The tuned weights' variant."""
    images: int
    """Images that all trainings of the stage see, over all epochs: they measure the stage's progress."""
    seen: int = 0
    """Images that the trainings so far have seen."""
    done: list[tuple[Variant, Seeded]] = field(default_factory=list)

    def train(self, policy: str, settings: Train, suffix: str) -> Trained:
        """Train under a policy; the variant's name ends with the suffix."""
        begin = self.seen
        self.seen += images_seen(self.data, settings)
        part = self.work.part(min(begin / self.images, 1.0), min(self.seen / self.images, 1.0))
        name = f"{self.model.label}/augment-{policy}{suffix}"
        settings = settings.model_copy(update={"augment": policy})
        seeded = train_seeds(part, self.model, self.data, settings, variant=name, stage="augment")
        variant = weights_variant(
            self.model,
            self.data,
            seeded.fitted.artifact,
            name=name,
            stage="augment",
            parent=self.parent.name,
            setting=f"{policy}, longer" if suffix == LONGER else policy,
        )
        self.done.append((variant, seeded))
        self.work.log.info(
            "%s: %d epochs, validation F1 %.4f of %d images",
            name,
            settings.epochs,
            seeded.fitted.validation_macro_f1,
            self.data.validation_rows,
        )
        return Trained(variant=variant, train=settings, validation_macro_f1=seeded.fitted.validation_macro_f1)

    def tables(self, chosen: Variant, tuned_macro_f1: float) -> dict[str, Artifact]:
        """Return the tables of all trainings, and of the chosen variant: one of theirs, or else the tuned weights."""
        rows = []
        for variant, seeded in self.done:
            rows.append(
                variant_row(
                    chosen if variant.name == chosen.name else variant,
                    validation_top1=seeded.fitted.validation_top1,
                    validation_macro_f1=seeded.fitted.validation_macro_f1,
                    note=seeded.fitted.note,
                )
            )
        if all(variant.name != chosen.name for variant, _ in self.done):
            rows.append(variant_row(chosen, validation_macro_f1=tuned_macro_f1))
        return {
            "epochs": self.work.rows("epochs", [row for _, seeded in self.done for row in seeded.epochs]),
            "seeds": self.work.rows("seeds", [seeded.spread for _, seeded in self.done]),
            "variants": self.work.rows("variants", rows),
            "evaluations": self.work.rows("evaluations", [seeded.evaluation for _, seeded in self.done]),
        }


def _best_in_short(trainings: _Trainings, policies: tuple[str, ...], short: Train) -> str:
    """Try each policy in short, and return the one that is best on validation."""
    scores = {policy: _score(trainings.train(policy, short, TRY)) for policy in policies}
    return max(scores, key=lambda policy: scores[policy])


def _as_before(model: Model, tuned: Trained) -> Trained:
    """Return the tuned weights under a name of this stage, so that later stages find one variant to continue from."""
    changed = {
        "name": f"{model.label}/augment-{tuned.train.augment}",
        "stage": "augment",
        "parent": tuned.variant.name,
        "setting": tuned.train.augment,
    }
    return tuned.model_copy(update={"variant": tuned.variant.model_copy(update=changed)})


def _score(trained: Trained) -> float:
    """Return macro F1 on validation. There is one, because what is trained has validation images."""
    assert trained.validation_macro_f1 is not None, trained.variant.name
    return trained.validation_macro_f1


augment_task = stage(
    lambda inputs: f"augment/{inputs['model'].label}", libraries=LIBRARIES, modules=family, extra=pretrained
)(augment)
