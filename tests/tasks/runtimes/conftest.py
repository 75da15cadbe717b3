"""Fixtures of the runtimes' tests: real digits in colour, and two models in every format."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
import pytest

import models
from models import families
from tasks.caching.work import Work
from tasks.datasets._pixels import normalise
from tasks.records import Build, Export, Prepared, Variant
from tests.support.digits import digits, warmed_model
from tests.support.shared import made_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


SIZE = 32


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The store of the models' forms, which all test processes share."""
    return Work.at(made_once(tmp_path_factory, "runtimes", lambda folder: None))


@pytest.fixture(scope="session")
def data(work: Work) -> Prepared:
    """Real digits in colour, enlarged to a size that every model family takes."""
    small = digits(work, 60)
    images = np.load(work.store.get(small.images)).repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    with work.store.temporary() as folder:
        np.save(folder / "images.npy", images)
        images_artifact = work.store.put(folder / "images.npy", "npy")
    return small.model_copy(
        update={
            "images": images_artifact,
            "image_size": SIZE,
            "channels": 3,
            "mean": small.mean * 3,
            "std": small.std * 3,
        }
    )


@pytest.fixture(scope="session")
def inputs(work: Work, data: Prepared) -> np.ndarray:
    return normalise(np.load(work.store.get(data.images)), data.mean, data.std)


@pytest.fixture(scope="session")
def forms(work: Work, data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Variant]:
    """Return a function that gives the variant of a model in a format. Each variant is made once."""

    def form(model: str, format: str) -> Variant:
        def make(folder: Path) -> None:
            (folder / "variant.json").write_text(_variant(form, work, data, model, format).model_dump_json())

        folder = made_once(tmp_path_factory, f"runtimes-{model}-{format}", make)
        return Variant.model_validate_json((folder / "variant.json").read_text())

    return form


def _variant(form: Callable[[str, str], Variant], work: Work, data: Prepared, model: str, format: str) -> Variant:
    if format == "safetensors":
        architecture = {"name": model, "num_classes": 10, "in_channels": 3, "image_size": SIZE}
        family = __import__(f"models.{families()[model]}", fromlist=[model])
        if "width" in inspect.signature(getattr(family, model)).parameters:
            architecture["width"] = 8
        with work.store.temporary() as folder:
            models.save(warmed_model(**architecture), folder / "weights.safetensors", architecture)
            artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
        return Variant(name=model, model=model, stage="train", format="safetensors", artifact=artifact)
    if format == "engine":
        from tasks.build import build

        stage_result = build(work, form(model, "onnx"), None, Build(precisions=("fp32",)), (1, 8))
    else:
        from tasks.export import export

        stage_result = export(work, data, form(model, "safetensors"), Export(formats=(format,), images=8))
    (variant,) = stage_result.variants
    if variant.status == "skipped":
        pytest.skip(str(variant.error))
    assert variant.status == "ok", variant.error
    return variant
