"""Profiles of one small ResNet in each runtime: the operators that are measured, and the files that are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import profilers, runtimes
from tasks.build import build
from tasks.caching.work import Work
from tasks.profiling.profile import Profile, profile, read
from tasks.records import Build, Variant
from tests.support.command import skip_without_engines
from tests.support.profiles import CONVOLUTIONS, INPUTS, RUNTIMES, convolution_rows, profile_of


def test_every_convolution_is_a_row_and_convolutions_take_most_of_the_time(result: Profile) -> None:
    rows = convolution_rows(result)
    assert len(rows) == CONVOLUTIONS
    assert sum(row["share"] for row in rows) > 0.4
    # Older versions of PyTorch do not report the types of tensors.
    precisions = {row["precision"] for row in rows}
    assert precisions == {"fp32"} or (precisions == {None} and result.runtime in ("eager", "torchscript"))
    assert all(row["calls"] == result.queries for row in rows)


def test_shares_and_times_add_up(result: Profile) -> None:
    assert sum(row["share"] for row in result.operators) == pytest.approx(1)
    assert sum(row["mean_ms"] for row in result.operators) == pytest.approx(result.operators_ms)
    assert sum(result.stacks.values()) == pytest.approx(result.operators_ms, rel=0.02)
    shares = [row["share"] for row in result.operators]
    assert shares == sorted(shares, reverse=True)
    assert result.latency_ms > 0


def test_the_path_of_an_operator_is_that_of_its_module(result: Profile) -> None:
    if result.runtime == "torchscript":
        pytest.skip("a frozen TorchScript graph has no modules")
    paths = {row["path"] for row in convolution_rows(result)}
    assert {"conv1", "layer1/0/conv1", "layer2/0/downsample/0", "layer4/2/conv2"} <= paths
    assert len(paths) == CONVOLUTIONS
    assert any(stack[:3] == ("layer1", "0", "conv1") for stack in result.stacks)


def test_a_float_resnet_has_no_finding_except_for_idle_cores(result: Profile) -> None:
    allowed = {"fewer threads than physical cores"}
    # Eager PyTorch folds no BatchNormalization.
    if result.runtime == "eager":
        allowed.add("BatchNormalization that was not folded into a convolution")
    assert {finding.what for finding in result.findings} <= allowed


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_profile_is_written_to_one_folder_and_read_back_from_it(
    files: dict[str, Path], tmp_path: Path, runtime: str
) -> None:
    result = profile_of(files, runtime, tmp_path)
    folder = tmp_path / "profile"
    assert read(folder).findings == result.findings
    assert read(folder).operators == result.operators
    assert read(folder).stacks == pytest.approx(result.stacks, abs=1e-5)
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("ph") == "X" for event in events) >= CONVOLUTIONS
    assert (folder / "tensorboard").exists() == (runtime in ("eager", "torchscript"))
    assert [path.name for path in tmp_path.iterdir()] == ["profile"], "no temporary file is left beside the profile"


@pytest.mark.slow
def test_the_kernels_of_torch_compile_are_rows(files: dict[str, Path], tmp_path: Path) -> None:
    if (reason := runtimes.load("torch_compile").unavailable("cpu")) is not None:
        pytest.skip(reason)
    result = profile_of(files, "torch_compile", tmp_path)
    assert len(convolution_rows(result)) == CONVOLUTIONS
    assert any(row["provider"] == "generated" for row in result.operators), "Inductor generates kernels"


@pytest.mark.alone
def test_onnxruntimes_operators_take_about_as_long_as_its_queries(files: dict[str, Path], tmp_path: Path) -> None:
    """The operators are those of the fastest quarter of the queries, so that their sum may be below the latency."""
    ratios = []
    for _ in range(5):
        result = profile_of(files, "onnxruntime", tmp_path, queries=40)
        ratios.append(result.operators_ms / result.latency_ms)
    assert 0.3 < np.median(ratios) < 3


@pytest.mark.alone
def test_openvinos_operators_take_about_as_long_as_its_queries(files: dict[str, Path], tmp_path: Path) -> None:
    result = profile_of(files, "openvino", tmp_path, queries=40)
    assert 0.2 < result.operators_ms / result.latency_ms < 1.5


def test_a_runtime_format_or_shape_that_cannot_be_profiled_is_refused_in_one_line(
    files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"runtime 'null' cannot be profiled; accepted: onnxruntime, .*eager, "):
        profilers.load("null")
    with pytest.raises(ValueError, match=r"runtime eager executes safetensors, not onnx"):
        profile(files["onnx"], "onnx", "eager", "cpu", 1, INPUTS, tmp_path / "p")
    with pytest.raises(ValueError, match=r"does not run on inputs of shape 1x3x8x8 \(float32\): .*channels"):
        profile(
            files["torchscript"],
            "torchscript",
            "torchscript",
            "cpu",
            1,
            np.ones((1, 3, 8, 8), np.float32),
            tmp_path / "p",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("runtime", ["eager", "torchscript"])
def test_the_kernels_of_a_gpu_are_timed(files: dict[str, Path], tmp_path: Path, runtime: str) -> None:
    form = RUNTIMES[runtime]
    result = profile(files[form], form, runtime, "cuda:0", 1, INPUTS, tmp_path / "profile", queries=8)
    assert len(convolution_rows(result)) == CONVOLUTIONS
    assert result.split_ms is not None
    # Kernels as small as these wait for their launches.
    assert 0.05 < result.operators_ms / result.split_ms[2] < 1.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_layers_of_an_engine_are_timed(files: dict[str, Path], tmp_path: Path) -> None:
    if (reason := runtimes.load("tensorrt").unavailable("cuda:0")) is not None:
        pytest.skip(reason)
    skip_without_engines()
    work = Work.at(tmp_path, "engine")
    with work.store.temporary() as folder:
        file = folder / "model.onnx"
        file.write_bytes(files["onnx"].read_bytes())
        parent = Variant(
            name="r/train/onnx", model="r", stage="export", format="onnx", artifact=work.store.put(file, "onnx")
        )
    variant = build(work, parent, None, Build(precisions=("fp32",), batch_sizes=(1, 2))).variants[0]
    assert variant.artifact, variant.error
    path = work.store.get(variant.artifact)
    result = profile(path, "engine", "tensorrt", "cuda:0", 1, INPUTS, tmp_path / "profile", queries=8)
    assert result.operators
    assert result.operators_ms > 0
