"""Weights that a stage starts from or makes, and the rows and records that describe them."""

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


LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
"""Libraries whose versions are part of the key of every stage that trains."""
LOG = logging.getLogger("burnish.train")


def family(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the module that builds a stage's model, which is reached by its name, so that no import shows it."""
    import models

    return (models.module(inputs["model"].name),)


def pretrained(inputs: dict[str, Any]) -> dict[str, str]:
    """Return a part of a stage's key: the content of the file of pretrained weights, where the model names a file.

    Weights of the hub need no such part. Their name and their library's version are in the key already.
    """
    import models

    source = inputs["model"].pretrained
    path = models.weights_file(source) if source else None
    return {"content of models.pretrained": file_sha256(path)} if path else {}


def cost(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Return the number of weights, and the multiply-accumulates of one image. `example` is a batch of one.

    The multiply-accumulates are those of convolutions and matrix products, attention included; biases and element-wise
    operations are left out. They are half of the FLOPs that PyTorch's counter reports.
    """
    # On import, this module warns that Triton is missing.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        # Gradients stay on: without them, attention takes a fast path that is not counted.
        model(example)
    model.train(was_training)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def fresh(model: Model, data: Prepared, seed: int, *, trains: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model with seeded or pretrained weights, and the arguments of `models.build` that made it.

    Raises
    ------
    ValueError
        If the weights cannot be loaded, or if nothing `trains` the head that they lack for these classes.
    """
    import torch

    import models

    torch.manual_seed(seed)
    architecture = _architecture(model, data)
    network = models.build(**architecture)
    if model.pretrained is not None:
        loaded = models.pretrained(network, model.name, model.pretrained, data.image_size)
        LOG.info("%s: %s", model.label, "; ".join(loaded.notes))
        if loaded.replaced_head is not None and not trains:
            raise ValueError(
                f"{model.label}: its weights are for {loaded.replaced_head} classes and the images are of "
                f"{len(data.classes)}, so that its head would be an untrained one; give images of its own classes, or "
                "set train.epochs (burnish run)"
            )
        if loaded.normalisation is not None and not _is_near(loaded.normalisation, (data.mean, data.std)):
            LOG.warning(
                "%s: its weights were trained with mean %s and std %s, the images here have %s and %s; set "
                "data.mean and data.std",
                model.label,
                *loaded.normalisation,
                data.mean,
                data.std,
            )
    return network, architecture


def _is_near(wanted: tuple[tuple[float, ...], ...], actual: tuple[tuple[float, ...], ...]) -> bool:
    """Return whether two normalisations, each (mean, std), differ by at most 0.01 in every channel.

    `actual` may have one value for all channels.
    """
    for wanted_values, actual_values in zip(wanted, actual, strict=True):
        per_channel = actual_values * len(wanted_values)
        if any(abs(w - a) > 0.01 for w, a in zip(wanted_values, per_channel, strict=False)):
            return False
    return True


def _architecture(model: Model, data: Prepared) -> dict[str, Any]:
    """Return the arguments of `models.build` for a model on these images."""
    if model.upsample is not None and model.upsample <= data.image_size:
        raise ValueError(
            f"models.upsample: {model.upsample} is no more than the images' {data.image_size} pixels; leave it "
            "out, or set a smaller data.image_size"
        )
    architecture: dict[str, Any] = {
        "name": model.name,
        "num_classes": len(data.classes),
        "in_channels": data.channels,
        "image_size": data.image_size,
    }
    for option in ("width", "upsample", "gelu"):
        value = getattr(model, option)
        if value is not None:
            architecture[option] = value
    return architecture


@dataclass(frozen=True)
class Seeded:
    """The trainings of one variant, one per seed."""

    fitted: Fitted
    """The training with the best macro F1 on validation. Later stages continue from its weights."""
    seed: int
    """The seed of that training."""
    epochs: list[dict[str, object]]
    """Rows of the table `epochs`, of all seeds."""
    evaluation: dict[str, object]
    """The row of the table `evaluations` for the weights of that training."""
    spread: dict[str, object]
    """The row of the table `seeds`: how much the seeds differ."""


def images_seen(data: Prepared, settings: Train) -> int:
    """Return how many images a training of all seeds sees over all epochs, if it is not ended early."""
    return len(settings.seeds) * settings.epochs * min(settings.train_limit or data.train_rows, data.train_rows)


def train_seeds(work: Work, model: Model, data: Prepared, settings: Train, *, variant: str, stage: str) -> Seeded:
    """Train once per seed. Validation chooses the seed; test images only show by how much the seeds differ."""
    trainings: list[Fitted] = []
    evaluations: list[dict[str, object]] = []
    for number, seed in enumerate(settings.seeds):
        network, architecture = fresh(model, data, seed)
        training = Training(
            work=work.part(number / len(settings.seeds), (number + 1) / len(settings.seeds)),
            architecture=architecture,
            data=data,
            settings=settings.model_copy(update={"seeds": (seed,)}),
            model_label=model.label,
            variant=variant,
            stage=stage,
        )
        fitted = fit(training, network)
        trainings.append(fitted)
        evaluations.append(evaluation_row(training.work, data, variant, fitted.artifact, settings.device))
    best = max(range(len(trainings)), key=lambda number: trainings[number].validation_macro_f1)
    spread = {
        "model": model.label,
        "variant": variant,
        "stage": stage,
        "seeds": list(settings.seeds),
        "chosen": settings.seeds[best],
        **_spread("validation", [fitted.validation_macro_f1 for fitted in trainings]),
        **_spread("test", [float(str(row["macro_f1"])) for row in evaluations]),
    }
    if (note := trainings[best].note) is not None:
        work.log.warning("%s: %s", variant, note)
    if len(settings.seeds) > 1:
        _log_spread(work, spread)
    return Seeded(
        fitted=trainings[best],
        seed=settings.seeds[best],
        epochs=[row for fitted in trainings for row in fitted.epochs],
        evaluation=evaluations[best],
        spread=spread,
    )


def _spread(split: str, scores: list[float]) -> dict[str, object]:
    """Return the columns of the table `seeds` for one split: macro F1 per seed, its mean and standard deviation."""
    import numpy

    column = f"{split}_macro_f1"
    return {
        column: scores,
        f"{column}_mean": float(numpy.mean(scores)),
        f"{column}_std": float(numpy.std(scores, ddof=1)) if len(scores) > 1 else None,
    }


def _log_spread(work: Work, spread: dict[str, Any]) -> None:
    scores = ", ".join(
        f"{split} F1 {spread[f'{split}_macro_f1_mean']:.4f} ± {spread[f'{split}_macro_f1_std']:.4f}"
        for split in ("validation", "test")
    )
    work.log.info(
        "%s: %s (mean ± standard deviation of %d seeds); seed %d is best on validation",
        spread["variant"],
        scores,
        len(spread["seeds"]),
        spread["chosen"],
    )


def untrained(work: Work, model: Model, data: Prepared, settings: Train) -> tuple[Artifact, Scores | None]:
    """Store a model's weights without a step of training; return them, and their scores on validation images if any."""
    network, architecture = fresh(model, data, settings.seeds[0], trains=False)
    artifact = store_weights(work, network, architecture)
    if not data.validation_rows:
        return artifact, None
    return artifact, evaluate(network.to(choose_device(settings.device)), data, work.store, "validation")


def evaluation_row(work: Work, data: Prepared, variant: str, artifact: Artifact, device: str) -> dict[str, object]:
    """Score weights on test images and return their row of the table `evaluations`.

    The row's runtime is `training`, as no runtime is timed here. Nothing is chosen by these scores.
    """
    import models
    from tasks.measure import metrics

    device = choose_device(device)
    scores = evaluate(models.load(work.store.get(artifact)).to(device), data, work.store, "test")
    quality = metrics.quality(scores.logits, scores.labels)
    return {"variant": variant, "runtime": "training", "device": device, "images": len(scores.labels), **quality}


def weights_variant(
    model: Model, data: Prepared, artifact: Artifact, *, name: str, stage: str, **fields: Any
) -> Variant:
    """Return the variant of stored weights, with its number of parameters and multiply-accumulates."""
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
