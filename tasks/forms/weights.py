"""An architecture with the weights that somebody trained: how its images are prepared, its classes, its predictions.

Where images have labels, the stages that train need none of this. Where they have none, these weights are the original.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import models
from tasks.datasets._pixels import normalise
from tasks.forms._statements import statements
from tasks.machine.files import file_sha256
from tasks.records import Preparation

if TYPE_CHECKING:
    from torch import nn

    from tasks.records import Data, Model

PROBE = 2
"""The number of classes that a network is built with to learn how many its weights are for."""


def preparation(model: Model, settings: Data) -> Preparation:
    """Return how images are prepared, by the settings, by what lies beside the weights, or by their library.

    Raises
    ------
    ValueError
        If nothing says it. The message is one line.
    """
    assert model.pretrained is not None
    told = statements(models.weights_file(model.pretrained) or Path("hub"), {}, model.name)
    normalisation = None
    if settings.mean is not None and settings.std is not None:
        normalisation = settings.mean, settings.std
    normalisation = normalisation or next((one.normalisation for one in told if one.normalisation), None)
    size, resize = settings.image_size, settings.resize
    if size is None:
        size, resize = next(((one.image_size, one.resize) for one in told if one.image_size), (None, None))
    missing = [] if normalisation else ["data.mean and data.std (--mean, --std)"]
    missing += [] if size else ["data.image_size (--image-size)"]
    if normalisation is None or size is None:
        raise ValueError(
            f"{model.label}: no image has a label, so that the preparation cannot be found by trying: give "
            f"{', '.join(missing)}"
        )
    mean, std = normalisation
    is_cropped = resize is not None and resize > size
    return Preparation(image_size=size, resize=resize if is_cropped else None, mean=mean, std=std)


def content(inputs: dict[str, Any]) -> dict[str, str]:
    """Return a part of the key of a stage that takes a model with weights: the content of their file.

    Weights of the hub need no such part. Their name and their library's version are in the key already.
    """
    source = inputs["model"].pretrained
    path = models.weights_file(source) if source else None
    return {"content of models.pretrained": file_sha256(path)} if path else {}


def modules(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the module that builds a stage's model by its name; none where the model is a file."""
    model = inputs["model"]
    return () if model.file else (models.module(model.name),)


def classes(model: Model, image_size: int) -> tuple[str, ...]:
    """Return a name per class of a model's weights, which is its number."""
    _, replaced = _built(model, PROBE, image_size)
    return tuple(map(str, range(replaced or PROBE)))


class WeightsInPyTorch:
    """The original weights in PyTorch on the CPU. It takes images, and returns a score per class.

    Parameters
    ----------
    prepared
        How images are prepared.
    count
        How many classes the weights are for.
    """

    def __init__(self, model: Model, prepared: Preparation, count: int) -> None:
        self._network, _ = _built(model, count, prepared.image_size)
        self._preparation = prepared

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of images, which are uint8, (images, height, width, 3): float32, (images, classes)."""
        import torch

        mean, std = self._preparation.mean, self._preparation.std
        with torch.inference_mode():
            return self._network(torch.from_numpy(normalise(images, mean, std))).float().numpy()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Do nothing: the network is released with this object."""


def _built(model: Model, count: int, image_size: int) -> tuple[nn.Module, int | None]:
    """Return the network with its weights, and how many classes these are for where their head had to be replaced."""
    assert model.pretrained is not None
    options: dict[str, Any] = {
        name: value for name in ("width", "upsample", "gelu") if (value := getattr(model, name)) is not None
    }
    network = models.build(model.name, num_classes=count, in_channels=3, image_size=image_size, **options)
    loaded = models.pretrained(network, model.name, model.pretrained, image_size)
    return network.eval(), loaded.replaced_head
