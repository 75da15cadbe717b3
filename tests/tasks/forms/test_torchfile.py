"""Model files of PyTorch, OpenVINO and others are executed in their own type, or refused with what to give instead."""

from __future__ import annotations

import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks import runtimes
from tasks.forms.modelfile import inspect
from tasks.machine.causes import cause

if TYPE_CHECKING:
    from collections.abc import Callable


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def save_torchscript(path: Path, dtype: torch.dtype, make: Callable[[nn.Module, torch.Tensor], Any]) -> Path:
    image = torch.zeros(1, 3, 8, 8, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(make(net().to(dtype), image), str(path))
    return path


MAKERS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "traced": torch.jit.trace,
    "scripted": lambda module, image: torch.jit.script(module),
    "frozen": lambda module, image: torch.jit.freeze(torch.jit.trace(module, image)),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_torchscript_gets_images_of_its_weights_type(dtype: torch.dtype, maker: str, tmp_path: Path) -> None:
    file = inspect(save_torchscript(tmp_path / "model.pt", dtype, MAKERS[maker]))
    images = file.inputs(2, (3, 8, 8))
    assert (file.format, images.dtype) == ("torchscript", np.dtype(str(dtype).removeprefix("torch.")))
    adapter = runtimes.load("torchscript")
    adapter.load_library("cpu")
    assert adapter.open(file.path, "cpu", 2, 1).run(images).shape == (2, 5)


def test_the_cause_of_a_torchscript_error_is_its_last_line(tmp_path: Path) -> None:
    save_torchscript(tmp_path / "model.pt", torch.float16, torch.jit.trace)
    session = runtimes.load("torchscript").open(tmp_path / "model.pt", "cpu", 1, 1)
    with pytest.raises(RuntimeError) as raised:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert str(raised.value).startswith("The following operation failed in the TorchScript interpreter.\n")
    reason = cause(raised.value)
    assert "float" in reason.lower()
    assert "half" in reason.lower()
    assert "\n" not in reason
    assert "interpreter" not in reason


def test_the_cause_is_found_first_last_or_in_the_middle_of_an_error_message(tmp_path: Path) -> None:
    import onnxruntime
    import openvino

    from tests.support.models import network

    assert cause(RuntimeError("\x1b[1mfirst\x1b[0m\nsecond")) == "first"
    assert cause(KeyError()) == "KeyError"
    model = network()
    model.ir_version = 99
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail) as raised:
        onnxruntime.InferenceSession(model.SerializeToString())
    assert "onnxruntime_src" in str(raised.value)
    assert cause(raised.value).endswith("Unsupported model IR version: 99, max supported IR version: 13")
    assert "onnxruntime_src" not in cause(raised.value)
    assert "::" not in cause(raised.value)
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    (tmp_path / "norank.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RuntimeError) as refused:
        openvino.Core().read_model(tmp_path / "norank.onnx")
    assert cause(refused.value) == "Conv-17: The input data tensor's rank has to be known (static)", (
        "of two causes the first is given"
    )


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(ValueError, match=r".") as raised:
        inspect(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_program_of_torch_export_is_refused_with_a_command_that_makes_onnx_of_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(net(), (torch.zeros(2, 3, 8, 8),)), str(path))
    message = refusal(path)
    assert "a program of torch.export (.pt2), which is not opened" in message
    command = shlex.split(message[message.index("python -c ") : message.rindex("); accepted: ")])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path, capture_output=True)
    assert inspect(tmp_path / "model.onnx").shape == (3, 8, 8)


def test_weights_and_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "whole.pt")
    torch.save(net().state_dict(), tmp_path / "state.pt")
    torch.save(net().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(net().state_dict(), tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:900])
    save_torchscript(tmp_path / "bf16.pt", torch.bfloat16, torch.jit.trace)
    assert "a pickled torch.nn.modules.container.Sequential, which is never opened" in refusal(tmp_path / "whole.pt")
    for name in ("state.pt", "old.pt"):
        message = refusal(tmp_path / name)
        assert "without TorchScript code: a state dict or checkpoint" in message
        assert "torch.onnx.export(" in message
        assert f'pretrained="{tmp_path / name}"' in message
    assert "cut off" in refusal(tmp_path / "half.pt")
    assert "bf16, for which NumPy has no type" in refusal(tmp_path / "bf16.pt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        ("page.onnx", b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page: the download was not"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5, as Keras writes it"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        ("model.onnx.gz", b"\x1f\x8b\x08" + bytes(64), "compressed by gzip"),
        ("model.xml", b"<?xml version='1.0'?><annotation/>", "no OpenVINO model: XML of <annotation>"),
        ("cut.xml", b"<?xml version='1.0'?><net><layers>", "no OpenVINO model: no element found"),
        ("array.npy", b"\x93NUMPY" + bytes(64), "an array of NumPy"),
    ],
)
def test_a_file_that_is_often_taken_for_a_model_is_refused_with_what_it_is(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OpenVINO model, as its converter saves one."""
    from tasks.runtimes._openvino import library

    path = tmp_path_factory.mktemp("ir") / "model.xml"
    openvino = library()
    openvino.save_model(openvino.convert_model(net(), example_input=torch.zeros(1, 3, 8, 8)), path)
    return path


def test_openvinos_own_format_is_executed(ir: Path) -> None:
    file = inspect(ir)
    assert (file.format, file.batch, file.shape, file.dtype) == ("openvino", None, (3, None, None), "float32")
    assert inspect(ir.parent).path == ir, "the folder of the model, as the hub has it, is accepted too"
    assert file.artifact().size_bytes == ir.stat().st_size + ir.with_suffix(".bin").stat().st_size
    images = file.inputs(2, (3, 8, 8))
    adapter = runtimes.load("openvino")
    adapter.load_library("cpu")
    with torch.no_grad():
        expected = net()(torch.from_numpy(images)).numpy()
    answer = adapter.open(file.executable(ir.parent / "copy"), "cpu", 2, 1).run(images)
    # OpenVINO's converter stores weights in fp16.
    np.testing.assert_allclose(answer, expected, atol=0.01)


def test_openvino_weights_without_their_model_and_a_model_without_weights_are_refused(ir: Path, tmp_path: Path) -> None:
    assert "the weights of model.xml: give that" in refusal(ir.with_suffix(".bin"))
    (tmp_path / "model.xml").write_bytes(ir.read_bytes())
    assert "its weights, model.bin, are not beside it" in refusal(tmp_path / "model.xml")


def test_openvinos_own_format_is_profiled(ir: Path, tmp_path: Path) -> None:
    from tasks.profiling.profile import profile

    images = inspect(ir).inputs(1, (3, 8, 8))
    result = profile(ir, "openvino", "openvino", "cpu", 1, images, tmp_path / "p", queries=30)
    assert any(row["type"] == "Convolution" for row in result.operators)
