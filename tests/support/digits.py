"""A few real digits as the prepare stage stores them, and untrained models, for tests of later stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch

import models
from tasks.datasets._arrays import SPLITS, Arrays
from tasks.records import Artifact, Prepared, Variant

if TYPE_CHECKING:
    from tasks.caching.work import Work


def digits(work: Work, rows: int = 300) -> Prepared:
    """Store the first `rows` of scikit-learn's digits: a fifth for validation, a fifth for testing."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = (source.images[:rows, :, :, None] * 255 / 16).astype(numpy.uint8)
    pattern = [SPLITS.index(split) for split in ("train", "train", "train", "validation", "test")]
    splits = numpy.array(pattern, numpy.uint8)[numpy.arange(rows) % 5]
    arrays = Arrays(images, source.target[:rows].astype(numpy.int64), splits)
    train = images[arrays.rows_of("train")] / 255

    def put(array: numpy.ndarray) -> Artifact:
        with work.store.temporary() as folder:
            numpy.save(folder / "array.npy", array)
            return work.store.put(folder / "array.npy", "npy")

    return Prepared(
        images=put(images),
        labels=put(arrays.labels),
        splits=put(splits),
        classes=tuple(map(str, range(10))),
        image_size=8,
        channels=1,
        mean=(float(train.mean()),),
        std=(float(train.std()),),
        train_rows=len(arrays.rows_of("train")),
        validation_rows=len(arrays.rows_of("validation")),
        test_rows=len(arrays.rows_of("test")),
    )


def warmed_model(**architecture: Any) -> torch.nn.Module:
    """Return an untrained model in evaluation mode, whose normalization layers have seen four batches of noise."""
    torch.manual_seed(0)
    model = models.build(**architecture).train()
    shape = (32, architecture["in_channels"], architecture["image_size"], architecture["image_size"])
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(shape))
    return model.eval()


def stored_model(work: Work, label: str, **architecture: Any) -> Variant:
    """Store a warmed model and return its variant, as if the stage `train` had made it."""
    with work.store.temporary() as folder:
        models.save(warmed_model(**architecture), folder / "weights.safetensors", architecture)
        artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
    return Variant(
        name=f"{label}/train",
        model=label,
        stage="train",
        format="safetensors",
        artifact=artifact,
        parameters=1234,
        macs=5678,
        setting="seed 0",
    )
