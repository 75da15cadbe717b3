"""The tanh approximation of GELU is a property of a model, which its weights and all of its forms share."""

from __future__ import annotations

import logging
import os
import statistics
import time
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import nn

import models
from tasks import runtimes
from tasks.caching.work import Work
from tasks.export import export
from tasks.forms.onnx import quiet, write_onnx
from tasks.records import Export, Model, Study, Train
from tasks.train import train
from tests.support.digits import digits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOLERANCE = 5e-3
"""Largest difference that tanh may make to a logit of a trained model, relative to the largest logit."""


@pytest.mark.slow
def test_a_model_trained_with_tanh_has_it_in_every_form_and_nearly_the_logits_of_exact_gelu(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    data, model = digits(work, 300), Model(name="timm:test_vit", upsample=32, gelu="tanh")
    settings = Train(epochs=4, batch_size=30, optimizer="adamw", learning_rate=2e-3, device="cpu")
    trained = train(work, model, data, settings, True)
    assert trained.variant.name == "timm:test_vit-32px-tanh/train"

    weights = work.store.get(trained.variant.artifact)
    architecture = models.architecture(weights)
    assert architecture.pop("gelu") == "tanh"
    tanh, exact = models.load(weights), models.build(**architecture).eval()
    assert tanh.state_dict().keys() == exact.state_dict().keys()
    exact.load_state_dict(tanh.state_dict())
    images = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tanh_logits, exact_logits = tanh(images), exact(images)
    difference = float((tanh_logits - exact_logits).abs().max() / exact_logits.abs().max())
    assert 0 < difference <= TOLERANCE, difference

    forms = export(work, data, trained.variant, Export(images=20, tolerance=1e-4))
    assert [(v.format, v.error) for v in forms.variants] == [("onnx", None), ("torchscript", None)]
    graph = onnx.load(str(work.store.get(forms.variants[0].artifact))).graph
    gelu_attributes = [{a.name: a.s for a in node.attribute} for node in graph.node if node.op_type == "Gelu"]
    assert gelu_attributes == [{"approximate": b"tanh"}] * sum(isinstance(m, nn.GELU) for m in tanh.modules())
    scripted = torch.jit.load(str(work.store.get(forms.variants[1].artifact)))
    assert 'value="tanh"' in str(scripted.inlined_graph)


@pytest.mark.parametrize("name", ["convnext_18m", "vit_b_16", "torchvision:swin_t", "timm:poolformer_s12"])
def test_with_gelu_tanh_every_gelu_layer_of_a_model_is_approximated(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, num_classes=10, gelu="tanh")
    layers = [m for m in model.modules() if "GELU" in type(m).__name__]
    assert layers
    assert all(isinstance(m, nn.GELU) and m.approximate == "tanh" for m in layers)


# lenet5 has no GELU; test_convnext has the tanh approximation already.
@pytest.mark.parametrize("name", ["lenet5", "timm:test_convnext"])
def test_gelu_tanh_is_refused_for_a_model_without_an_exact_gelu(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} has no exact GELU; leave out models.gelu$"):
        models.build(name, num_classes=10, image_size=32, gelu="tanh")


def test_a_study_may_hold_a_model_with_exact_gelu_and_with_tanh_under_two_labels() -> None:
    study = Study(models=(Model(name="vit_b_16"), Model(name="vit_b_16", gelu="tanh")))
    assert [m.label for m in study.models] == ["vit_b_16", "vit_b_16-tanh"]


def training_step_of(model: nn.Module) -> Callable[[], None]:
    """Return a function that trains the model with one batch of 4 images of 64 pixels."""
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    x, labels = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last), torch.randint(0, 200, (4,))

    def step() -> None:
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif("BURNISH_GELU" not in os.environ, reason="measured by hand: BURNISH_GELU=40 (rounds) and -s")
def test_tanh_costs_onnx_runtime_and_openvino_less_than_a_tenth_of_their_speed(tmp_path: Path) -> None:
    """Measured with the model and the image size of study S5 and one thread, in rounds that time all forms.

    Processor time is compared, because other processes on the machine disturb it little.
    """
    torch.set_num_threads(1)
    forms: dict[tuple[str, str], Callable[[], object]] = {}
    base = {"name": "convnext_18m", "num_classes": 200, "in_channels": 3, "image_size": 64, "upsample": 224}
    images = torch.randn(1, 3, 64, 64)
    for gelu, settings in (("exact", {}), ("tanh", {"gelu": "tanh"})):
        torch.manual_seed(0)
        model = models.build(**base, **settings).eval()
        (folder := tmp_path / gelu).mkdir()
        with quiet(logging.getLogger("burnish")):
            path = write_onnx(model, images.repeat(2, 1, 1, 1), Export(), {}, folder)
        models.save(model, tmp_path / f"{gelu}.safetensors", base | settings)
        for name in ("eager", "onnxruntime", "openvino"):
            file = tmp_path / f"{gelu}.safetensors" if name == "eager" else path
            session = runtimes.load(name).open(file, "cpu", 1, 1)
            forms[name, gelu] = lambda session=session: session.run(images.numpy())
        forms["a training step", gelu] = training_step_of(model)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in forms}
    # The rounds -2 and -1 warm up.
    for number in range(-2, int(os.environ["BURNISH_GELU"])):
        for key in sorted(forms, reverse=bool(number % 2)):
            start = time.process_time()
            forms[key]()
            if number >= 0:
                seconds[key].append(time.process_time() - start)
    gains = {
        name: statistics.median(e / t for e, t in zip(seconds[name, "exact"], seconds[name, "tanh"], strict=True))
        for name, gelu in forms
        if gelu == "tanh"
    }
    print(f"times as fast with tanh: {gains}")
    assert min(gains["onnxruntime"], gains["openvino"]) > 0.9, gains
