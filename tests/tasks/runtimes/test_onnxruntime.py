"""ONNX Runtime, with and without TensorRT, fails rather than run on another provider, and takes any ONNX file."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks import runtimes
from tasks.caching.work import Work
from tasks.machine import gpu
from tasks.records import Variant
from tasks.runtimes import _onnxruntime
from tasks.runtimes._onnx import model_file
from tests.support.programs import command, environment

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("package", "library", "reason"),
    [
        (None, None, "TensorRT is not installed (neither the package tensorrt nor a library libnvinfer)"),
        ("11.0.0.114", None, "TensorRT 11.0.0.114 is installed, ONNX Runtime's provider needs TensorRT 10"),
        (None, "libnvinfer.so.8", "TensorRT 8 is installed, ONNX Runtime's provider needs TensorRT 10"),
        (None, "libnvinfer.so.10", None),
        ("10.14.1", None, None),
    ],
)
def test_onnx_runtimes_tensorrt_provider_takes_tensorrt_10_alone(
    package: str | None, library: str | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtimes.load("onnxruntime_tensorrt")
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "A", "driver": "1", "memory_bytes": None},))
    monkeypatch.setattr(runtime, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: package)))
    monkeypatch.setattr(runtime, "metadata", SimpleNamespace(version=lambda name: package))
    monkeypatch.setattr(runtime, "ctypes", SimpleNamespace(util=SimpleNamespace(find_library=lambda name: library)))
    assert runtime.unavailable("cuda:0") == reason


@pytest.mark.skipif(
    not any(package.name == "onnxruntime-gpu" for package in importlib.metadata.distributions()),
    reason="ONNX Runtime's build for CPUs is installed (requirements-gpu.txt has the one for CUDA)",
)
def test_installed_wheels_carry_every_library_that_onnx_runtimes_cuda_provider_links() -> None:
    completed = subprocess.run(
        command("load_cuda_provider"), env=environment(), text=True, capture_output=True, check=True
    )
    missing_library = completed.stdout.strip()
    assert missing_library.partition(":")[0] in ("", "libcuda.so.1"), "the driver's own library alone may be missing"


@pytest.mark.skipif(bool(gpu.gpus()), reason="this machine has a GPU")
def test_onnx_runtime_asked_for_cuda_fails_rather_than_run_on_the_cpu(
    work: Work, forms: Callable[[str, str], Variant]
) -> None:
    path = work.store.get(forms("lenet5", "onnx").artifact)
    with pytest.raises(RuntimeError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPUExecutionProvider"):
        _onnxruntime.create(path, "CUDAExecutionProvider", {}, 1, {})
    with pytest.raises(RuntimeError, match=r"NVIDIA|CUDA"):
        runtimes.load("onnxruntime").open(path, "cuda:0", 1, 1)


@pytest.mark.skipif(bool(gpu.gpus()), reason="this machine has a GPU")
def test_onnx_runtime_asked_for_tensorrt_fails_rather_than_run_on_the_cpu(
    work: Work, forms: Callable[[str, str], Variant]
) -> None:
    path = work.store.get(forms("lenet5", "onnx").artifact)
    with pytest.raises(RuntimeError, match=r"Tensor(RT|rt)"):
        _onnxruntime.create(path, "TensorrtExecutionProvider", {}, 1, {})
    for device in ("cpu", "cuda:0"):
        with pytest.raises(RuntimeError, match=r"asked for cpu|no NVIDIA GPU"):
            runtimes.load("onnxruntime_tensorrt").open(path, device, 1, 1)


def test_a_folder_with_external_data_is_opened_by_its_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").touch()
    with pytest.raises(ValueError, match=r"one \.onnx or \.xml file, it has 0"):
        model_file(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert model_file(tmp_path) == tmp_path / "model.onnx"
    assert model_file(tmp_path / "model.onnx") == tmp_path / "model.onnx"


def _model_with_two_outputs(path: Path) -> Path:
    """Write an ONNX file with an int64 input of shape (batch, 3) and two outputs: its double and its negative."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["x", "x"], ["double"]), helper.make_node("Neg", ["x"], ["negative"])]
    shape = ["batch", 3]
    tensor = helper.make_tensor_value_info
    outputs = [tensor(name, TensorProto.INT64, shape) for name in ("double", "negative")]
    graph = helper.make_graph(nodes, "two", [tensor("x", TensorProto.INT64, shape)], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_onnx_file_may_take_any_type_and_rank_and_its_first_output_counts(name: str, tmp_path: Path) -> None:
    session = runtimes.load(name).open(_model_with_two_outputs(tmp_path / "two.onnx"), "cpu", 4, 1)
    for batch in (4, 1):
        inputs = np.arange(3 * batch).reshape(batch, 3)
        answer = session.run(inputs)
        assert answer.dtype == np.int64
        assert np.array_equal(answer, 2 * inputs)
