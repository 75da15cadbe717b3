"""GELU by its tanh approximation: part of the model, in every form of it."""

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
"""Of a logit, relative to the largest one: what tanh may change in a trained model."""


@pytest.mark.slow
def test_a_model_trained_with_tanh_has_it_in_every_form_and_is_near_the_exact_one(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    data, model = digits(work, 300), Model(name="timm:test_vit", upsample=32, gelu="tanh")
    settings = Train(epochs=4, batch_size=30, optimizer="adamw", learning_rate=2e-3, device="cpu")
    trained = train(work, model, data, settings, True)
    assert trained.variant.name == "timm:test_vit-32px-tanh/train"

    file = work.store.get(trained.variant.artifact)
    built = models.architecture(file)
    assert built.pop("gelu") == "tanh"
    tanh, exact = models.load(file), models.build(**built).eval()
    assert tanh.state_dict().keys() == exact.state_dict().keys()
    exact.load_state_dict(tanh.state_dict())
    images = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got, want = tanh(images), exact(images)
    off = float((got - want).abs().max() / want.abs().max())
    assert 0 < off <= TOLERANCE, off

    forms = export(work, data, trained.variant, Export(images=20, tolerance=1e-4))
    assert [(v.format, v.error) for v in forms.variants] == [("onnx", None), ("torchscript", None)]
    graph = onnx.load(str(work.store.get(forms.variants[0].artifact))).graph
    told = [{a.name: a.s for a in node.attribute} for node in graph.node if node.op_type == "Gelu"]
    assert told == [{"approximate": b"tanh"}] * sum(isinstance(m, nn.GELU) for m in tanh.modules())
    scripted = torch.jit.load(str(work.store.get(forms.variants[1].artifact)))
    assert 'value="tanh"' in str(scripted.inlined_graph)


@pytest.mark.parametrize("name", ["convnext_18m", "vit_b_16", "torchvision:swin_t", "timm:poolformer_s12"])
def test_every_gelu_of_a_model_is_approximated(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, num_classes=10, gelu="tanh")
    layers = [m for m in model.modules() if "GELU" in type(m).__name__]
    assert layers
    assert all(isinstance(m, nn.GELU) and m.approximate == "tanh" for m in layers)


# the latter has tanh already
@pytest.mark.parametrize("name", ["lenet5", "timm:test_convnext"])
def test_a_model_without_an_exact_gelu_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} has no exact GELU; leave out models.gelu$"):
        models.build(name, num_classes=10, image_size=32, gelu="tanh")


def test_a_study_takes_both_forms_of_a_model() -> None:
    study = Study(models=(Model(name="vit_b_16"), Model(name="vit_b_16", gelu="tanh")))
    assert [m.label for m in study.models] == ["vit_b_16", "vit_b_16-tanh"]


def training_step(model: nn.Module) -> Callable[[], None]:
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    x, right = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last), torch.randint(0, 200, (4,))

    def step() -> None:
        nn.functional.cross_entropy(model(x), right).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif("BURNISH_GELU" not in os.environ, reason="measured by hand: BURNISH_GELU=40 (rounds) and -s")
def test_tanh_costs_the_runtimes_no_tenth_of_their_speed(tmp_path: Path) -> None:
    """S5's model and size, one thread, in processor time, which others on the machine slow little; rounds
    interleave."""
    torch.set_num_threads(1)
    forms: dict[tuple[str, str], Callable[[], object]] = {}
    base = {"name": "convnext_18m", "num_classes": 200, "in_channels": 3, "image_size": 64, "upsample": 224}
    images = torch.randn(1, 3, 64, 64)
    for form, extra in (("exact", {}), ("tanh", {"gelu": "tanh"})):
        torch.manual_seed(0)
        model = models.build(**base, **extra).eval()
        (folder := tmp_path / form).mkdir()
        with quiet(logging.getLogger("burnish")):
            path = write_onnx(model, images.repeat(2, 1, 1, 1), Export(), {}, folder)
        models.save(model, tmp_path / f"{form}.safetensors", base | extra)
        for name in ("eager", "onnxruntime", "openvino"):
            file = tmp_path / f"{form}.safetensors" if name == "eager" else path
            session = runtimes.load(name).open(file, "cpu", 1, 1)
            forms[name, form] = lambda session=session: session.run(images.numpy())
        forms["a training step", form] = training_step(model)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in forms}
    # two to warm up
    for number in range(-2, int(os.environ["BURNISH_GELU"])):
        for key in sorted(forms, reverse=bool(number % 2)):
            before = time.process_time()
            forms[key]()
            if number >= 0:
                seconds[key].append(time.process_time() - before)
    gains = {
        name: statistics.median(e / t for e, t in zip(seconds[name, "exact"], seconds[name, "tanh"], strict=True))
        for name, form in forms
        if form == "tanh"
    }
    print(f"times as fast with tanh: {gains}")
    assert min(gains["onnxruntime"], gains["openvino"]) > 0.9, gains
