"""Train: from images to weights, once a seed; the seed best on validation goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.caching import stage
from tasks.evaluation import evaluate
from tasks.fit import Fitted, fit
from tasks.records import Artifact, Model, Prepared, Train, Trained, Variant
from tasks.variants import variant_row

if TYPE_CHECKING:
    from torch import nn

    from tasks.work import Work

LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn")


def family(inputs: dict[str, Any]) -> tuple[str, ...]:
    """The model's family file: it is reached by name, so no import tells of it."""
    from models import families

    return (f"models.{families()[inputs['model'].name]}", *(["models._upsample"] if inputs["model"].upsample else []))


def fresh(model: Model, data: Prepared, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """An untrained model with seeded weights, and the arguments of `models.build` that made it."""
    import torch

    import models

    architecture: dict[str, Any] = {"name": model.name, "num_classes": len(data.classes),
                                    "in_channels": data.channels, "image_size": data.image_size}  # fmt: skip
    architecture |= {k: v for k in ("width", "upsample") if (v := getattr(model, k)) is not None}
    torch.manual_seed(seed)
    return models.build(**architecture), architecture


def train_seeds(
    work: Work, model: Model, data: Prepared, settings: Train, variant: str, stage: str
) -> tuple[Fitted, int, list[dict[str, object]]]:
    """Train once a seed; returns (the run best on validation, its seed, the `epochs` rows of all)."""
    rows: list[dict[str, object]] = []
    best: tuple[Fitted, int] | None = None
    for seed in settings.seeds:
        network, architecture = fresh(model, data, seed)
        fitted = fit(work, network, architecture, data, settings.model_copy(update={"seeds": (seed,)}),
                     model_label=model.label, variant=variant, stage=stage)  # fmt: skip
        rows += fitted.epochs
        if best is None or fitted.validation_macro_f1 > best[0].validation_macro_f1:
            best = (fitted, seed)
    assert best is not None
    if len(settings.seeds) > 1:
        work.log.info("%s: seed %d of %s is best on validation", variant, best[1], settings.seeds)
    return *best, rows


def evaluation_row(work: Work, data: Prepared, variant: str, artifact: Artifact) -> dict[str, object]:
    """A row of `evaluations` on the held-out images for weights that no runtime times (recorded, never chosen by)."""
    import models
    from tasks import metrics

    scores = evaluate(models.load(work.store.get(artifact)), data, work.store, "test")
    quality = metrics.quality(scores.logits, scores.labels)
    return {"variant": variant, "runtime": "training", "device": "cpu", "images": len(scores.labels), **quality}


def weights(model: Model, data: Prepared, name: str, stage: str, fitted: Fitted, **fields: Any) -> Variant:
    """The variant of trained weights, with its parameters and multiply-accumulates."""
    import torch

    from tasks.prune import cost

    network, _ = fresh(model, data, 0)
    parameters, macs = cost(network, torch.zeros(1, data.channels, data.image_size, data.image_size))
    return Variant(name=name, model=model.label, stage=stage, format="safetensors", parameters=parameters, macs=macs,
                   artifact=fitted.artifact, **fields)  # fmt: skip


def train(work: Work, model: Model, data: Prepared, settings: Train, final: bool) -> Trained:
    """Train `model` to saturation. `final`: no later stage makes weights of it, so these go on to the benchmark."""
    name = f"{model.label}/train"
    fitted, seed, epochs = train_seeds(work, model, data, settings, name, "train")
    variant = weights(model, data, name, "train", fitted, setting=f"seed {seed}", benchmark=final)
    row = variant_row(variant, validation_top1=fitted.validation_top1, validation_macro_f1=fitted.validation_macro_f1)
    return Trained(
        variant=variant,
        train=settings,
        validation_macro_f1=fitted.validation_macro_f1,
        tables={
            "epochs": work.rows("epochs", epochs),
            "variants": work.rows("variants", [row]),
            "evaluations": work.rows("evaluations", [evaluation_row(work, data, name, fitted.artifact)]),
        },
    )


train_task = stage(lambda inputs: f"train/{inputs['model'].label}", libraries=LIBRARIES, modules=family)(train)
