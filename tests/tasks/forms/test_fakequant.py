"""Fake-quantized models: their ranges, and their ONNX form, which runs in integers throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tasks.forms import fakequant
from tasks.forms.onnx import write_onnx
from tasks.records import QAT_SETTINGS, Export
from tasks.runtimes import onnxruntime as runtime
from tests.support.digits import warmed_model
from tests.support.optimized import optimized_operators

if TYPE_CHECKING:
    from pathlib import Path


def test_the_int8_form_matches_the_fake_quantized_model_and_not_the_fp32_one() -> None:
    architecture = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}
    images = torch.randn(64, 1, 8, 8)
    for setting in QAT_SETTINGS:
        model = fakequant.fake_quantized(warmed_model(**architecture), images[:2], setting).train()
        model(images)
        model.eval()
        with torch.no_grad():
            expected, fp32 = model(images), warmed_model(**architecture)(images)
            actual = fakequant.int8_form(model)(images)
        assert (actual - expected).abs().max() < 0.2 * (actual - fp32).abs().max()


def test_ranges_follow_the_images_in_training_and_stay_fixed_in_evaluation() -> None:
    architecture = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}
    model = fakequant.fake_quantized(warmed_model(**architecture), torch.randn(2, 1, 8, 8), "u8s8").train()
    model(torch.randn(16, 1, 8, 8))

    def ranges() -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in model.state_dict().items() if k.endswith(("scale", "max_val"))}

    before = ranges()
    model.eval()(torch.full((16, 1, 8, 8), 9.0))
    assert all(torch.equal(before[k], v) for k, v in ranges().items())
    model.train()(torch.full((16, 1, 8, 8), 9.0))
    assert any(not torch.equal(before[k], v) for k, v in ranges().items())


def test_a_residual_network_runs_in_integers_throughout(tmp_path: Path) -> None:
    architecture = {"name": "resnet34", "num_classes": 10, "in_channels": 3, "image_size": 8, "width": 8}
    images = torch.randn(8, 3, 8, 8)
    model = fakequant.fake_quantized(warmed_model(**architecture), images[:2], "u8s8-reduced").train()
    model(images)
    write_onnx(fakequant.int8_form(model.eval()), images[:2], Export(), {}, tmp_path)
    kinds = optimized_operators(tmp_path / "model.onnx", tmp_path)
    assert kinds.count("QLinearConv") == 36 and kinds.count("QLinearAdd") == 16 and kinds.count("QGemm") == 1
    assert not {"Conv", "Add", "Relu", "BatchNormalization", "FusedConv"} & set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_18m"])
def test_every_familys_layers_run_in_integers(name: str, tmp_path: Path) -> None:
    images = torch.randn(8, 3, 32, 32)
    plain = warmed_model(name=name, num_classes=10, in_channels=3, image_size=32)
    layers = sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in plain.modules())
    model = fakequant.fake_quantized(plain, images[:2], "u8s8-reduced").train()
    model(images)
    with torch.no_grad():
        want = model.eval()(images).numpy()
    write_onnx(fakequant.int8_form(model), images[:2], Export(), {}, tmp_path)
    session = runtime.open(tmp_path / "model.onnx", "cpu", 8, 1)
    assert abs(session.run(images.numpy()) - want).max() < 0.1 * abs(want).max()
    kinds = optimized_operators(tmp_path / "model.onnx", tmp_path)
    assert sum(kinds.count(kind) for kind in ("QLinearConv", "QGemm", "MatMulIntegerToFloat")) == layers
