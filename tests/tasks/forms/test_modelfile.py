"""The format of a model file is recognised by its content, and a file that is no model is refused in one line."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.forms.modelfile import inspect

if TYPE_CHECKING:
    from pathlib import Path


def write_onnx(path: Path, shape: list[int | str], inputs: int = 1, dtype: int = TensorProto.FLOAT) -> Path:
    """Write an ONNX file whose model returns its first input."""
    input_infos = [helper.make_tensor_value_info(f"x{n}", dtype, shape) for n in range(inputs)]
    output_info = helper.make_tensor_value_info("y", dtype, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "g", input_infos, [output_info])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_shape_type_and_batch_come_from_an_onnx_file(tmp_path: Path) -> None:
    file = inspect(write_onnx(tmp_path / "a.onnx", ["n", 3, 8, 8]))
    assert (file.format, file.batch, file.shape, file.dtype) == ("onnx", None, (3, 8, 8), "float32")
    fixed = inspect(write_onnx(tmp_path / "b.onnx", [4, 16], dtype=TensorProto.INT64))
    assert (fixed.batch, fixed.shape, fixed.dtype) == (4, (16,), "int64")
    fixed.check_batches((4,))
    with pytest.raises(ValueError, match=r"its batch size is fixed at 4, asked for 1, 8"):
        fixed.check_batches((1, 4, 8))


def test_random_inputs_have_the_shape_and_type_that_the_file_declares(tmp_path: Path) -> None:
    images = inspect(write_onnx(tmp_path / "a.onnx", ["n", 3, 8, 8])).inputs(5, None)
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == np.float32
    assert images.std() == pytest.approx(1, abs=0.1)
    integers = inspect(write_onnx(tmp_path / "b.onnx", ["n", 3], dtype=TensorProto.UINT8)).inputs(500, None)
    assert integers.dtype == np.uint8
    assert 200 < integers.max() <= 255


def test_a_file_with_an_open_shape_needs_an_input_shape_that_fits(tmp_path: Path) -> None:
    file = inspect(write_onnx(tmp_path / "a.onnx", ["n", 3, "h", "w"]))
    with pytest.raises(ValueError, match=r"a.onnx: its input has 3x\?x\?; say it with --input-shape 3,224,224"):
        file.inputs(1, None)
    assert file.inputs(2, (3, 16, 12)).shape == (2, 3, 16, 12)
    for wrong in ((1, 16, 16), (3, 16), (2, 3, 16, 16)):
        with pytest.raises(ValueError, match="does not fit its input, 3x"):
            file.inputs(1, wrong)


@pytest.mark.parametrize(
    ("shape", "wrong", "hint"),
    [
        (["n", 1, 8, 8], (3, 224, 224), "--input-shape 1,8,8 "),
        (["n", 1, "h", "w"], None, "--input-shape 1,224,224 "),
        (["n", "c", 32, 32], None, "--input-shape 3,32,32 "),
        (["n", "h", "w", 3], None, "--input-shape 224,224,3 "),
        (["n", 16], (8,), "--input-shape 16 "),
        (["n", 3, "t", 8, 8], None, "--input-shape 3,224,8,8 "),
        (["n", 3, "h", "w"], (1, 16, 16), "--input-shape 3,224,224 "),
    ],
)
def test_the_suggested_input_shape_is_one_that_the_file_accepts(
    tmp_path: Path, shape: list[int | str], wrong: tuple[int, ...] | None, hint: str
) -> None:
    file = inspect(write_onnx(tmp_path / "a.onnx", shape))
    with pytest.raises(ValueError, match=r"--input-shape") as raised:
        file.inputs(1, wrong)
    assert hint in str(raised.value)
    suggested = tuple(map(int, hint.split()[1].split(",")))
    assert file.inputs(1, suggested).shape == (1, *suggested)


def test_formats_are_recognised_by_content(tmp_path: Path) -> None:
    import torch

    module = torch.jit.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))
    torch.jit.save(module, str(tmp_path / "model.bin"))
    assert inspect(tmp_path / "model.bin").format == "torchscript"
    (tmp_path / "engine").write_bytes(b"ftrt" + bytes(64))
    assert inspect(tmp_path / "engine").format == "engine"
    (tmp_path / "null").write_text(json.dumps({"milliseconds": [1.0], "classes": 2}))
    assert inspect(tmp_path / "null").format == "null"


def test_a_file_that_is_no_model_is_refused_in_one_line_with_its_path(tmp_path: Path) -> None:
    import torch

    (tmp_path / "text").write_text("hello, this is not a model")
    (tmp_path / "empty").touch()
    (tmp_path / "json").write_text("{}")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    whole = write_onnx(tmp_path / "whole.onnx", ["n", 3]).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "zip").read_bytes()[:20])
    (tmp_path / "folder").mkdir()
    write_onnx(tmp_path / "two.onnx", ["n", 3], inputs=2)
    write_onnx(tmp_path / "scalar.onnx", [])
    for name, words in {
        "absent": "no such file",
        "text": "is not a model",
        "empty": r"empty \(0 bytes\)",
        "json": "is not a model",
        "state.pt": "without TorchScript code",
        "zip": "without TorchScript code",
        "cut.zip": "cut off",
        "cut.onnx": "is not a model",
        "folder": "must hold one .onnx file",
        "two.onnx": "has 2 inputs",
        "scalar.onnx": "has no batch axis",
    }.items():
        with pytest.raises(ValueError, match=words) as raised:
            inspect(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_safetensors_need_the_architecture_that_burnish_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    import models

    architecture = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}
    models.save(models.build(**architecture), tmp_path / "a.safetensors", architecture)
    assert inspect(tmp_path / "a.safetensors").shape == (1, 8, 8)
    save_file({"w": np.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="weights without an architecture"):
        inspect(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match="is a safetensors file that is cut off or damaged"):
        inspect(tmp_path / "c.safetensors")
