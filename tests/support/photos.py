"""A few small images in colour as the prepare stage leaves them, for tests of stages that take any images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from tasks.records import Artifact, Prepared

if TYPE_CHECKING:
    from tasks.caching.work import Work

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def photos(work: Work, size: int = 32, classes: int = 10, channels: int = 3, **changed: object) -> Prepared:
    """Thirty images of coloured squares with noise: ten for training, ten for validation, ten for testing."""
    rng = numpy.random.default_rng(0)
    squares = rng.integers(0, 224, (30, 4, 4, channels))
    places = numpy.arange(size) * 4 // size
    noise = rng.integers(0, 32, (30, size, size, channels))
    images = (squares[:, places][:, :, places] + noise).astype(numpy.uint8)

    def put(array: numpy.ndarray) -> Artifact:
        with work.store.temporary() as folder:
            numpy.save(folder / "array.npy", array)
            return work.store.put(folder / "array.npy", "npy")

    fields: dict[str, object] = {
        "images": put(images),
        "labels": put(numpy.arange(30) % classes),
        "splits": put(numpy.repeat([0, 1, 2], 10).astype(numpy.uint8)),
        "classes": tuple(f"class {number}" for number in range(classes)),
        "image_size": size,
        "channels": channels,
        "mean": MEAN if channels == 3 else (0.5,),
        "std": STD if channels == 3 else (0.25,),
        "train_rows": 10,
        "validation_rows": 10,
        "test_rows": 10,
    }
    return Prepared.model_validate(fields | changed)
