"""The contract that every runtime passes with every model: its outputs are eager PyTorch's on the same images."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from digits import digits, warmed

import models
from models import families
from tasks import machine, runtimes
from tasks.pixels import normalise
from tasks.records import Build, Export, Prepared, Variant, plugins
from tasks.runtimes.onnxruntime import model_file
from tasks.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-3  # of a logit, relative to the largest logit
SIZE = 32


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("runtimes"))


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    """Real digits, enlarged to a size that every family takes, in colour."""
    small = digits(work, 60)
    images = np.load(work.store.get(small.images)).repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    with work.store.temporary() as folder:
        np.save(folder / "images.npy", images)
        stored = work.store.put(folder / "images.npy", "npy")
    return small.model_copy(
        update={"images": stored, "image_size": SIZE, "channels": 3, "mean": small.mean * 3, "std": small.std * 3}
    )


@pytest.fixture(scope="module")
def inputs(work: Work, data: Prepared) -> np.ndarray:
    return normalise(np.load(work.store.get(data.images)), data.mean, data.std)


@pytest.fixture(scope="module")
def forms(work: Work, data: Prepared) -> Callable[[str, str], Variant]:
    """(model, format) -> the model in that format, made once."""
    made: dict[tuple[str, str], Variant] = {}

    def form(model: str, format: str) -> Variant:
        if (model, format) not in made:
            made[model, format] = _made(form, work, data, model, format)
        return made[model, format]

    return form


def _made(form: Callable[[str, str], Variant], work: Work, data: Prepared, model: str, format: str) -> Variant:
    if format == "safetensors":
        architecture = {"name": model, "num_classes": 10, "in_channels": 3, "image_size": SIZE}
        family = __import__(f"models.{families()[model]}", fromlist=[model])
        if "width" in inspect.signature(getattr(family, model)).parameters:
            architecture["width"] = 8
        with work.store.temporary() as folder:
            models.save(warmed(**architecture), folder / "weights.safetensors", architecture)
            artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
        return Variant(name=model, model=model, stage="train", format="safetensors", artifact=artifact)
    if format == "engine":
        from tasks.build import build

        made = build(work, form(model, "onnx"), None, Build(precisions=("fp32",)), (1, 8))
    else:
        from tasks.export import export

        made = export(work, data, form(model, "safetensors"), Export(formats=(format,), images=8))
    (variant,) = made.variants
    if variant.status == "skipped":
        pytest.skip(str(variant.error))
    assert variant.status == "ok", variant.error
    return variant


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(families()))
@pytest.mark.parametrize("name", plugins("runtimes"))
def test_outputs_equal_eager_pytorchs_on_the_same_images(
    name: str, model: str, work: Work, inputs: np.ndarray, forms: Callable[[str, str], Variant]
) -> None:
    import torch

    runtime = runtimes.load(name)
    device = next((d for d in ("cpu", "cuda:0") if runtime.unavailable(d) is None), None)
    if device is None:
        pytest.skip("; ".join(str(runtime.unavailable(d)) for d in ("cpu", "cuda:0")))
    with torch.inference_mode():
        weights = work.store.get(forms(model, "safetensors").artifact)
        expected = models.load(weights)(torch.from_numpy(inputs)).numpy()
    runtime.load_library(device)
    session = runtime.open(work.store.get(forms(model, runtime.FORMATS[0]).artifact), device, 8, 1)
    try:
        for batch in (1, 8, 5):  # the last as at the end of an evaluation
            logits = session.run(inputs[:batch])
            assert logits.dtype == np.float32
            assert logits.shape == (batch, 10)
            assert np.abs(logits - expected[:batch]).max() <= TOLERANCE * np.abs(expected).max()
            assert expected[:batch].std(axis=1).min() > 0  # a constant output would prove nothing
        assert ("cpu" if device == "cpu" else "cuda") in session.provider.lower()
    finally:
        session.close()


@pytest.mark.parametrize("name", plugins("runtimes"))
def test_a_gpu_that_is_not_there_is_a_reason_and_no_fallback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert "no NVIDIA GPU" in str(runtimes.load(name).unavailable("cuda:0"))


def test_a_gpu_beyond_the_last_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ({"name": "A", "driver": "1", "memory_bytes": None},))
    assert machine.missing_gpu("cuda:0") is None
    assert machine.missing_gpu("cuda:1") == "cuda:1: this machine has only 1 NVIDIA GPU"


@pytest.mark.skipif(bool(machine.gpus()), reason="this machine has a GPU")
def test_onnx_runtime_asked_for_cuda_fails_rather_than_run_on_the_cpu(
    work: Work, forms: Callable[[str, str], Variant]
) -> None:
    path = work.store.get(forms("lenet5", "onnx").artifact)
    with pytest.raises(RuntimeError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPUExecutionProvider"):
        runtimes.load("onnxruntime").open(path, "cuda:0", 1, 1)


@pytest.mark.parametrize("name", plugins("runtimes"))
def test_no_adapter_imports_its_library_before_it_is_told_to(name: str) -> None:
    heavy = {"torch", "onnxruntime", "tensorrt", "tensorrt_rtx_bindings", "models", "onnx"}
    tree = ast.parse((Path(runtimes.__file__).parent / f"{name}.py").read_text())
    top = {a.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    top |= {str(node.module).split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not top & heavy


def test_a_folder_with_external_data_is_opened_by_its_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").touch()
    with pytest.raises(ValueError, match=r"one \.onnx file, it has 0"):
        model_file(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert model_file(tmp_path) == tmp_path / "model.onnx"
    assert model_file(tmp_path / "model.onnx") == tmp_path / "model.onnx"


def test_the_fingerprint_is_cheap_and_stays() -> None:
    code = ("import time; from tasks import machine; begin = time.perf_counter(); print(machine.fingerprint());"
            "assert time.perf_counter() - begin < 0.5; import sys; assert 'torch' not in sys.modules")  # fmt: skip
    root = Path(runtimes.__file__).parents[2]
    printed = {
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert printed == {machine.fingerprint() + "\n"}


def test_auto_is_the_cpu_and_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert machine.devices(("auto", "cpu")) == ("cpu",)
    monkeypatch.setattr(machine, "gpus", lambda: ({"name": "A"}, {"name": "B"}))
    assert machine.devices(("auto",)) == ("cpu", "cuda:0")
    assert machine.devices(("cuda:1", "auto")) == ("cuda:1", "cpu", "cuda:0")
