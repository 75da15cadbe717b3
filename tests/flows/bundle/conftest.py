"""Fixtures: runs whose winner is a real file, and bundles of each runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.restored import environment_and_log_restored
from tests.support.servers import FinishedRun, colour_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run on JPEG photographs of ImageNet, which are resized and cropped."""
    with environment_and_log_restored():
        return colour_run(tmp_path_factory.mktemp("colour"))


VARIANTS = {
    "onnxruntime": "lenet5/train/onnx",
    "openvino": "lenet5/train/onnx",
    "torchscript": "lenet5/train/torchscript",
}


@pytest.fixture(scope="session")
def bundles(colour: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle per runtime; those of ONNX files have a folded model, too."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {}
    for runtime, variant in VARIANTS.items():
        with environment_and_log_restored(), colour.restored():
            colour.summarise({(variant, runtime): 1.0})
            folded = () if runtime == "torchscript" else ("--folded",)
            made[runtime] = colour.deploy(folder / runtime, *folded)
    return made
