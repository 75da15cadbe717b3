"""Train: from images to weights, once a seed; the seed best on validation goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.caching import stage
from tasks.devices import choose_device
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
    if model.upsample is not None and model.upsample <= data.image_size:
        raise ValueError(f"models.upsample: {model.upsample} is no more than the images' {data.image_size} pixels; leave it "
                         "out, or set a smaller data.image_size")  # fmt: skip
    architecture |= {k: v for k in ("width", "upsample") if (v := getattr(model, k)) is not None}
    torch.manual_seed(seed)
    return models.build(**architecture), architecture


@dataclass(frozen=True)
class Seeded:
    """The trainings of one variant, a seed each."""

    fitted: Fitted
    """The one best on validation, which goes on."""
    seed: int
    epochs: list[dict[str, object]]
    """Rows of `epochs`, of all seeds."""
    evaluation: dict[str, object]
    """Row of `evaluations` of the weights that go on."""
    spread: dict[str, object]
    """Row of `seeds`."""


def train_seeds(work: Work, model: Model, data: Prepared, settings: Train, variant: str, stage: str) -> Seeded:
    """Train once a seed. Test images tell how much seeds differ, never which one goes on."""
    import numpy

    made: list[tuple[Fitted, dict[str, object]]] = []
    for seed in settings.seeds:
        network, architecture = fresh(model, data, seed)
        fitted = fit(work, network, architecture, data, settings.model_copy(update={"seeds": (seed,)}),
                     model_label=model.label, variant=variant, stage=stage)  # fmt: skip
        made.append((fitted, evaluation_row(work, data, variant, fitted.artifact, settings.device)))
    best = max(range(len(made)), key=lambda n: made[n][0].validation_macro_f1)
    spread: dict[str, object] = {"model": model.label, "variant": variant, "stage": stage,
                                 "seeds": list(settings.seeds), "chosen": settings.seeds[best]}  # fmt: skip
    told = []
    for split, scores in (
        ("validation", [fitted.validation_macro_f1 for fitted, _ in made]),
        ("test", [float(str(row["macro_f1"])) for _, row in made]),
    ):
        mean, std = float(numpy.mean(scores)), float(numpy.std(scores, ddof=1)) if len(scores) > 1 else None
        name = f"{split}_macro_f1"
        spread |= {name: scores, f"{name}_mean": mean, f"{name}_std": std}
        told.append(f"{split} F1 {mean:.4f} ± {std or 0:.4f}")
    if len(settings.seeds) > 1:
        work.log.info("%s: %s (mean ± standard deviation of %d seeds); seed %d is best on validation", variant,
                      ", ".join(told), len(made), settings.seeds[best])  # fmt: skip
    return Seeded(
        made[best][0], settings.seeds[best], [row for f, _ in made for row in f.epochs], made[best][1], spread
    )


def evaluation_row(work: Work, data: Prepared, variant: str, artifact: Artifact, device: str) -> dict[str, object]:
    """A row of `evaluations` on the held-out images for weights that no runtime times (recorded, never chosen by)."""
    import models
    from tasks import metrics

    device = choose_device(device)
    scores = evaluate(models.load(work.store.get(artifact)).to(device), data, work.store, "test")
    quality = metrics.quality(scores.logits, scores.labels)
    return {"variant": variant, "runtime": "training", "device": device, "images": len(scores.labels), **quality}


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
    seeded = train_seeds(work, model, data, settings, name, "train")
    fitted = seeded.fitted
    variant = weights(model, data, name, "train", fitted, setting=f"seed {seeded.seed}", benchmark=final)
    row = variant_row(variant, validation_top1=fitted.validation_top1, validation_macro_f1=fitted.validation_macro_f1)
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


train_task = stage(lambda inputs: f"train/{inputs['model'].label}", libraries=LIBRARIES, modules=family)(train)
