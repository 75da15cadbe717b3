"""Two small classifiers of real digits, one of convolutions and one of attention, trained and written as ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.forms.int8 import Rows, classify, open_form
from tasks.forms.onnx import write_onnx
from tasks.records import Export
from tests.support.digits import digits
from tests.support.shared import made_once

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Original:
    """A trained fp32 classifier, and images to calibrate and to compare its int8 forms with."""

    file: Path
    transformer: bool
    training: Rows
    held_out: Rows
    labels: np.ndarray
    logits: np.ndarray
    """Its logits of the held-out images."""


def convolutional() -> nn.Module:
    """A network of a usual, a depthwise and a pointwise convolution, each with BatchNorm and ReLU6."""

    def block(channels: int, outputs: int, size: int, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, outputs, size, padding=size // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]

    blocks = [*block(1, 32, 3), *block(32, 32, 3, groups=32), *block(32, 64, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


def transformer() -> nn.Module:
    """A vision transformer of two blocks, for 4 patches of 4×4 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=2, num_heads=2)


NETWORKS = {"convolutional": convolutional, "transformer": transformer}


@pytest.fixture(scope="session", params=NETWORKS)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A classifier that knows most held-out digits: agreement with a poor one would prove nothing."""
    work = Work.at(tmp_path_factory.mktemp("original"), "quantizers")
    data = digits(work, rows=1500)
    arrays = load_arrays(work.store, data)
    training = Rows(data, arrays.images, arrays.rows_of("train"))
    held_out = Rows(data, arrays.images, arrays.rows_of("validation"))
    labels = arrays.labels[held_out.rows]

    def write(folder: Path) -> None:
        torch.manual_seed(0)
        model = NETWORKS[request.param]()
        train(model, torch.from_numpy(training.read(0, len(training))), torch.from_numpy(arrays.labels[training.rows]))
        write_onnx(model.eval(), torch.from_numpy(training.read(0, 2)), Export(), {"classes": "digits"}, folder)

    (file,) = made_once(tmp_path_factory, f"{request.param}-original", write).glob("*.onnx")
    session = open_form(file, "onnx")
    logits = classify(session, held_out)
    session.close()
    assert (logits.argmax(1) == labels).mean() > 0.85
    calibration = Rows(data, arrays.images, training.rows[:48])
    return Original(file, request.param == "transformer", calibration, held_out, labels, logits)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train a classifier for a few seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(7):
        for rows in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(images[rows]), labels[rows]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
