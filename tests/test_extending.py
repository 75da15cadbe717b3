"""The examples in docs/extending.md work unchanged."""

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


def import_example(number: int, folder: Path) -> ModuleType:
    """Import the Python example with this number, counted from 0, from a file in `folder`."""
    path = folder / "example.py"
    path.write_text(EXAMPLES[number], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("example", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_the_example_runtime_computes_what_onnx_runtime_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = import_example(0, tmp_path)
    network = models.build(name="lenet5", num_classes=10, in_channels=1, image_size=8).eval()
    images = torch.rand(3, 1, 8, 8)
    torch.onnx.export(network, (images,), tmp_path / "a.onnx", dynamo=True, verbose=False)
    with monkeypatch.context() as patched:
        patched.setattr(runtimes, "load", lambda name: runtime)
        assert "onnx" in libraries(Benchmark()), "a new version of the runtime's library must be measured again"
    assert runtime.unavailable("cpu") is None
    assert "on cpu only, asked for cuda:0" in runtime.unavailable("cuda:0")
    with pytest.raises(RuntimeError, match="on cpu only, asked for cuda:0"):
        runtime.open(tmp_path / "a.onnx", "cuda:0", 3, 1)
    runtime.load_library("cpu")
    inputs = images.numpy()
    example, reference = (plugin.open(tmp_path / "a.onnx", "cpu", 3, 1) for plugin in (runtime, onnxruntime))
    np.testing.assert_allclose(example.fork().run(inputs), reference.run(inputs), atol=1e-5)
    assert "cpu" in example.provider
    example.close()


def test_the_example_model_returns_ten_logits_per_image(tmp_path: Path) -> None:
    network = import_example(1, tmp_path).mlp(10, in_channels=1, image_size=8)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore")
def test_the_quantizers_form_is_small_and_close_to_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tasks.quantizers.weights_only", import_example(2, tmp_path))
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
