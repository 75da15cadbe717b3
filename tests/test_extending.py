"""The examples in docs/extending.md work as they stand there."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import models
from tasks import quantizers, runtimes
from tasks.candidates.candidate import libraries
from tasks.records import Benchmark
from tasks.runtimes import onnxruntime
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)


def module(number: int, folder: Path) -> ModuleType:
    """The example of this number, imported."""
    path = folder / "example.py"
    path.write_text(EXAMPLES[number], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("example", path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.filterwarnings("ignore")
def test_the_runtime_gives_what_onnx_runtime_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = module(0, tmp_path)
    network = models.build(name="lenet5", num_classes=10, in_channels=1, image_size=8).eval()
    images = torch.rand(3, 1, 8, 8)
    torch.onnx.export(network, (images,), tmp_path / "a.onnx", dynamo=True, verbose=False)
    with monkeypatch.context() as patched:
        patched.setattr(runtimes, "load", lambda name: runtime)
        assert "onnx" in libraries(Benchmark()), "another version of its library is measured anew"
    assert runtime.unavailable("cpu") is None and runtime.unavailable("cuda:0")
    runtime.load_library("cpu")
    inputs = images.numpy()
    own, ours = (maker.open(tmp_path / "a.onnx", "cpu", 3, 1) for maker in (runtime, onnxruntime))
    np.testing.assert_allclose(own.fork().run(inputs), ours.run(inputs), atol=1e-5)
    own.close()


def test_the_model_is_one(tmp_path: Path) -> None:
    network = module(1, tmp_path).mlp(10, in_channels=1, image_size=8)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore")
def test_the_quantizers_form_is_small_and_close_to_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tasks.quantizers.weights_only", module(2, tmp_path))
    quantizer = quantizers.load("weights_only")
    assert quantizer.SETTINGS == ("weights-only",) and quantizer.unavailable() is None
    network = models.build(name="lenet5", num_classes=10, in_channels=1, image_size=8).eval()
    images = torch.rand(3, 1, 8, 8)
    fp32 = tmp_path / "fp32.onnx"
    torch.onnx.export(network, (images,), fp32, input_names=["input"], dynamo=True, verbose=False, external_data=False)
    form = quantizer.quantize("weights-only", fp32, tmp_path, None)  # type: ignore[arg-type]  # it reads no images
    expected, logits = (onnxruntime.open(path, "cpu", 3, 1).run(images.numpy()) for path in (fp32, form))
    assert 0 < abs(logits - expected).max() < 0.05 * abs(expected).max()
    assert form.stat().st_size < 0.5 * fp32.stat().st_size
