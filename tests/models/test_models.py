"""Model families have their published sizes, refuse unfit images and names, and are pruned, stored and exported."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from tasks.prune import prune_channels
from tasks.training.weights import cost
from tests.support import programs

PUBLISHED_PARAMETERS = {
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "tf_efficientnet_lite0": 4_652_008,
    "convnext_tiny": 28_589_128,
    "convnext_base": 88_591_464,
    "vit_b_16": 86_567_656,
}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_family_has_its_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[name]


def test_convnext_18m_has_exactly_the_studys_number_of_parameters() -> None:
    with torch.device("meta"):
        model = models.build("convnext_18m", num_classes=200)
    assert sum(p.numel() for p in model.parameters()) == 18_166_472


def test_torchvisions_resnet34_weights_load_into_burnishs_resnet34() -> None:
    from torchvision.models import resnet34

    with torch.device("meta"):
        models.build("resnet34", num_classes=1000).load_state_dict(resnet34().state_dict(), strict=True)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_b_16", 40, "vit_b_16 does not take images of 40 pixels .it takes multiples of 16.; set data.image_size"),
        ("convnext_18m", 16, "does not take images of 16 pixels .it takes 32 or more."),
        ("convnext_tiny", 16, "does not take images of 16 pixels .* set data.image_size"),
        ("torchvision:alexnet", 32, "does not take images of 32 pixels"),
        ("timm:vit_tiny_patch16_224", 8, "does not take images of 8 pixels"),
    ],
)
def test_an_image_size_that_a_model_does_not_take_is_refused_in_one_line(name: str, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised, torch.device("meta"):
        models.build(name, num_classes=10, image_size=size)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "resnot",
            r"unknown model 'resnot'; did you mean resnet50\? accepted: .*vit_b_16, timm:NAME, torchvision:NAME",
        ),
        ("timm:resnot18", "timm has no classifier 'resnot18' .* did you mean resnet18"),
        ("timm:resnet18.none", "timm has no weights 'resnet18.none'; accepted: resnet18.a1_in1k"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier 'fcn_resnet50'"),
        ("keras:resnet50", "unknown library 'keras'"),
    ],
)
def test_an_unknown_model_name_is_refused_with_the_accepted_or_similar_names(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.check(name)


def test_model_names_are_checked_without_importing_a_library_of_models() -> None:
    subprocess.run(programs.command("models_by_name"), check=True, env=programs.environment())


def random_model(name: str, size: int, channels: int = 3) -> nn.Module:
    """Return a seeded model, in which weights that start at zero or one (heads, norms, layer scales) are random."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, in_channels=channels, image_size=size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def prune_and_store(name: str, size: int, folder: Path) -> tuple[nn.Module, torch.Tensor]:
    """Prune a model, save and load it, and check that it is the same. Return the loaded model and three images."""
    model, images = random_model(name, size), torch.randn(3, 3, size, size)
    whole_cost, shape = cost(model, images[:1]), model(images).shape
    assert shape == (3, 10)
    prune_channels(model, images[:1], 0.25, 8)
    expected, pruned_cost = model(images), cost(model, images[:1])
    assert pruned_cost[0] < 0.9 * whole_cost[0]
    assert pruned_cost[1] < 0.9 * whole_cost[1]
    architecture = {"name": name, "num_classes": 10, "in_channels": 3, "image_size": size}
    models.save(model, folder / "pruned.safetensors", architecture)
    loaded = models.load(folder / "pruned.safetensors")
    assert torch.equal(loaded(images), expected)
    assert cost(loaded, images[:1]) == pruned_cost
    normalised_channels = [m.num_features for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(count % 8 == 0 for count in normalised_channels)
    return loaded, images


@pytest.mark.parametrize(
    ("name", "size"),
    [("timm:vit_tiny_patch16_224", 32), ("timm:convnext_atto", 32), ("torchvision:mobilenet_v3_small", 32)],
)
def test_a_model_of_timm_or_torchvision_is_pruned_stored_and_loaded(name: str, size: int, tmp_path: Path) -> None:
    prune_and_store(name, size, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 32),
        ("densenet121", 32),
        ("efficientnet_b0", 32),
        ("tf_efficientnet_lite0", 32),
        ("vit_b_16", 32),
        ("convnext_18m", 32),
        ("convnext_tiny", 32),
    ],
)
def test_a_model_is_pruned_stored_loaded_and_exported(name: str, size: int, tmp_path: Path) -> None:
    import onnxruntime

    from tasks.forms.onnx import quiet, write_onnx
    from tasks.records import Export

    model, images = prune_and_store(name, size, tmp_path)
    with quiet(logging.getLogger("burnish")):
        (tmp_path / "onnx").mkdir()
        path = write_onnx(model, images[:2], Export(), {}, tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = model(images).detach()
    for batch in (1, 3):
        (logits,) = session.run(None, {"input": images[:batch].numpy()})
        assert abs(expected[:batch].numpy() - logits).max() < 1e-3 * expected.abs().max()


def test_pruning_a_model_with_attention_in_shifted_windows_is_refused() -> None:
    model = models.build("timm:swin_tiny_patch4_window7_224", num_classes=10, image_size=32)
    with pytest.raises(ValueError, match=r"shifted windows .* set prune.ratios = \[\]"):
        prune_channels(model, torch.zeros(1, 3, 32, 32), 0.25, 8)


def test_a_model_for_greyscale_images_has_a_first_convolution_of_one_channel() -> None:
    for name in ("torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050", "resnet50"):
        model = models.build(name, num_classes=10, in_channels=1, image_size=32)
        assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels == 1
