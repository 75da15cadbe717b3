"""Model files told from their content; what is wrong with others is one line."""

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


def graph(path: Path, shape: list[int | str], inputs: int = 1, dtype: int = TensorProto.FLOAT) -> Path:
    """An ONNX file that gives its (first) input back."""
    taken = [helper.make_tensor_value_info(f"x{n}", dtype, shape) for n in range(inputs)]
    given = helper.make_tensor_value_info("y", dtype, shape)
    made = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "g", taken, [given])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_shape_type_and_batch_come_from_an_onnx_file(tmp_path: Path) -> None:
    found = inspect(graph(tmp_path / "a.onnx", ["n", 3, 8, 8]))
    assert (found.format, found.batch, found.shape, found.dtype) == ("onnx", None, (3, 8, 8), "float32")
    fixed = inspect(graph(tmp_path / "b.onnx", [4, 16], dtype=TensorProto.INT64))
    assert (fixed.batch, fixed.shape, fixed.dtype) == (4, (16,), "int64")
    fixed.check_batches((4,))
    with pytest.raises(ValueError, match=r"its batch size is fixed at 4, asked for 1, 8"):
        fixed.check_batches((1, 4, 8))


def test_inputs_have_the_files_shape_and_type(tmp_path: Path) -> None:
    made = inspect(graph(tmp_path / "a.onnx", ["n", 3, 8, 8])).inputs(5, None)
    assert made.shape == (5, 3, 8, 8)
    assert made.dtype == np.float32
    assert made.std() == pytest.approx(1, abs=0.1)
    small = inspect(graph(tmp_path / "b.onnx", ["n", 3], dtype=TensorProto.UINT8)).inputs(500, None)
    assert small.dtype == np.uint8
    assert 200 < small.max() <= 255


def test_a_dynamic_shape_is_asked_for_and_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    found = inspect(graph(tmp_path / "a.onnx", ["n", 3, "h", "w"]))
    with pytest.raises(ValueError, match=r"a.onnx: its input has 3x\?x\?; say it with --input-shape 3,224,224"):
        found.inputs(1, None)
    assert found.inputs(2, (3, 16, 12)).shape == (2, 3, 16, 12)
    for wrong in ((1, 16, 16), (3, 16), (2, 3, 16, 16)):
        with pytest.raises(ValueError, match="does not fit its input, 3x"):
            found.inputs(1, wrong)


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
def test_the_shape_that_is_suggested_is_one_that_the_file_takes(
    tmp_path: Path, shape: list[int | str], wrong: tuple[int, ...] | None, hint: str
) -> None:
    found = inspect(graph(tmp_path / "a.onnx", shape))
    with pytest.raises(ValueError, match=r"--input-shape") as raised:
        found.inputs(1, wrong)
    assert hint in str(raised.value)
    given = tuple(map(int, hint.split()[1].split(",")))
    assert found.inputs(1, given).shape == (1, *given)


def test_formats_are_told_from_the_content(tmp_path: Path) -> None:
    import torch

    module = torch.jit.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))
    torch.jit.save(module, str(tmp_path / "model.bin"))
    assert inspect(tmp_path / "model.bin").format == "torchscript"
    (tmp_path / "engine").write_bytes(b"ftrt" + bytes(64))
    assert inspect(tmp_path / "engine").format == "engine"
    (tmp_path / "null").write_text(json.dumps({"milliseconds": [1.0], "classes": 2}))
    assert inspect(tmp_path / "null").format == "null"


def test_what_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    import torch

    (tmp_path / "text").write_text("hello, this is not a model")
    (tmp_path / "empty").touch()
    (tmp_path / "json").write_text("{}")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    whole = graph(tmp_path / "whole.onnx", ["n", 3]).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "zip").read_bytes()[:20])
    (tmp_path / "folder").mkdir()
    graph(tmp_path / "two.onnx", ["n", 3], inputs=2)
    graph(tmp_path / "scalar.onnx", [])
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

    built = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}
    models.save(models.build(**built), tmp_path / "a.safetensors", built)
    assert inspect(tmp_path / "a.safetensors").shape == (1, 8, 8)
    save_file({"w": np.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="weights without an architecture"):
        inspect(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match="is a safetensors file that is cut off or damaged"):
        inspect(tmp_path / "c.safetensors")
