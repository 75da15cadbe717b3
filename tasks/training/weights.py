"""Weights that a stage goes on from: pretrained, freshly drawn or trained, with what is recorded of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.machine.devices import choose_device
from tasks.machine.files import file_sha256
from tasks.records import Artifact, Model, Prepared, Train, Variant
from tasks.training.evaluation import Scores, evaluate
from tasks.training.fit import Fitted, fit, store_weights
from tasks.training.state import Training

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.caching.work import Work


def cost(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """(Number of weights, multiply-accumulates of one image); `example` is a batch of one.

    Multiply-accumulates are those of convolutions and matrix products (attention included), biases and element-wise
    operations left out: half of what PyTorch's FLOP counter says.
    """
    # warns of a missing Triton when imported
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        # gradients stay on: without, attention takes an uncounted fast path
        model(example)
    model.train(training)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
LOG = logging.getLogger("burnish.train")


def family(inputs: dict[str, Any]) -> tuple[str, ...]:
    """The module that builds the model: it is reached by name, so no import tells of it."""
    import models

    return (models.module(inputs["model"].name),)


def pretrained(inputs: dict[str, Any]) -> dict[str, str]:
    """Part of the key: what a file of pretrained weights holds. (The hub's are told by name and library version.)"""
    import models

    source = inputs["model"].pretrained
    path = models.weights_file(source) if source else None
    return {"content of models.pretrained": file_sha256(path)} if path else {}


def fresh(model: Model, data: Prepared, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A model with seeded or pretrained weights, and the arguments of `models.build` that made it."""
    import torch

    import models

    torch.manual_seed(seed)
    architecture = _architecture(model, data)
    network = models.build(**architecture)
    if model.pretrained is not None:
        loaded = models.pretrained(network, model.name, model.pretrained, data.image_size)
        LOG.info("%s: %s", model.label, "; ".join(loaded.notes))
        if loaded.normalisation is not None and not _near(loaded.normalisation, (data.mean, data.std)):
            LOG.warning(
                "%s: its weights were trained with mean %s and std %s, the images here have %s and %s; set "
                "data.mean and data.std",
                model.label,
                *loaded.normalisation,
                data.mean,
                data.std,
            )
    return network, architecture


def _near(one: tuple[tuple[float, ...], ...], other: tuple[tuple[float, ...], ...]) -> bool:
    return all(abs(a - b) <= 0.01 for x, y in zip(one, other, strict=True) for a, b in zip(x, y * len(x), strict=False))


def _architecture(model: Model, data: Prepared) -> dict[str, Any]:
    architecture: dict[str, Any] = {
        "name": model.name,
        "num_classes": len(data.classes),
        "in_channels": data.channels,
        "image_size": data.image_size,
    }
    if model.upsample is not None and model.upsample <= data.image_size:
        raise ValueError(
            f"models.upsample: {model.upsample} is no more than the images' {data.image_size} pixels; leave it "
            "out, or set a smaller data.image_size"
        )
    return architecture | {k: v for k in ("width", "upsample", "gelu") if (v := getattr(model, k)) is not None}


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


def images_seen(data: Prepared, settings: Train) -> int:
    """Images that a training of all seeds sees, over all epochs, if it is not ended early."""
    return len(settings.seeds) * settings.epochs * min(settings.train_limit or data.train_rows, data.train_rows)


def train_seeds(work: Work, model: Model, data: Prepared, settings: Train, variant: str, stage: str) -> Seeded:
    """Train once a seed. Test images tell how much seeds differ, never which one goes on."""
    import numpy

    made: list[tuple[Fitted, dict[str, object]]] = []
    for number, seed in enumerate(settings.seeds):
        network, architecture = fresh(model, data, seed)
        part = work.part(number / len(settings.seeds), (number + 1) / len(settings.seeds))
        training = Training(
            work=part,
            architecture=architecture,
            data=data,
            settings=settings.model_copy(update={"seeds": (seed,)}),
            model_label=model.label,
            variant=variant,
            stage=stage,
        )
        fitted = fit(training, network)
        made.append((fitted, evaluation_row(work, data, variant, fitted.artifact, settings.device)))
    best = max(range(len(made)), key=lambda n: made[n][0].validation_macro_f1)
    spread: dict[str, object] = {
        "model": model.label,
        "variant": variant,
        "stage": stage,
        "seeds": list(settings.seeds),
        "chosen": settings.seeds[best],
    }
    told = []
    for split, scores in (
        ("validation", [fitted.validation_macro_f1 for fitted, _ in made]),
        ("test", [float(str(row["macro_f1"])) for _, row in made]),
    ):
        mean, std = float(numpy.mean(scores)), float(numpy.std(scores, ddof=1)) if len(scores) > 1 else None
        name = f"{split}_macro_f1"
        spread |= {name: scores, f"{name}_mean": mean, f"{name}_std": std}
        told.append(f"{split} F1 {mean:.4f} ± {std or 0:.4f}")
    if (note := made[best][0].note) is not None:
        work.log.warning("%s: %s", variant, note)
    if len(settings.seeds) > 1:
        work.log.info(
            "%s: %s (mean ± standard deviation of %d seeds); seed %d is best on validation",
            variant,
            ", ".join(told),
            len(made),
            settings.seeds[best],
        )
    return Seeded(
        made[best][0], settings.seeds[best], [row for f, _ in made for row in f.epochs], made[best][1], spread
    )


def as_they_are(work: Work, model: Model, data: Prepared, settings: Train) -> tuple[Artifact, Scores | None]:
    """Pretrained weights, stored without a step of training, and their validation scores where there are such
    images."""
    network, architecture = fresh(model, data, settings.seeds[0])
    artifact = store_weights(work, network, architecture)
    if not data.validation_rows:
        return artifact, None
    return artifact, evaluate(network.to(choose_device(settings.device)), data, work.store, "validation")


def evaluation_row(work: Work, data: Prepared, variant: str, artifact: Artifact, device: str) -> dict[str, object]:
    """A row of `evaluations` on the held-out images for weights that no runtime times (recorded, never chosen by)."""
    import models
    from tasks.measure import metrics

    device = choose_device(device)
    scores = evaluate(models.load(work.store.get(artifact)).to(device), data, work.store, "test")
    quality = metrics.quality(scores.logits, scores.labels)
    return {"variant": variant, "runtime": "training", "device": device, "images": len(scores.labels), **quality}


def weights(model: Model, data: Prepared, name: str, stage: str, artifact: Artifact, **fields: Any) -> Variant:
    """The variant of trained weights, with its parameters and multiply-accumulates."""
    import torch

    import models

    network = models.build(**_architecture(model, data))
    parameters, macs = cost(network, torch.zeros(1, data.channels, data.image_size, data.image_size))
    return Variant(
        name=name,
        model=model.label,
        stage=stage,
        format="safetensors",
        parameters=parameters,
        macs=macs,
        artifact=artifact,
        **fields,
    )
