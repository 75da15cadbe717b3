"""What `bench` and `profile` say of a model that no runtime executes: one line, once, and exit code 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from flows.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def relu() -> onnx.ModelProto:
    """Return a model with one operator."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_that_cannot_be_opened_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = relu()
    model.ir_version = 99
    file = tmp_path / "ir99.onnx"
    file.write_bytes(model.SerializeToString())
    out = str(tmp_path / "out")
    assert (
        main(["bench", str(file), "--runtime", "onnxruntime", "--rounds", "1", "--seconds", "0.1", "--out", out]) == 2
    )
    text = capfd.readouterr()
    assert (text.out + text.err).count("Unsupported model IR version: 99") == 1
    assert "burnish: nothing could be measured: ir99.onnx in onnxruntime: Load model from " in text.err
    assert "WARNING" not in text.err
    assert main(["profile", str(file), "--runtime", "onnxruntime", "--out", out]) == 2
    assert "ir99.onnx cannot be opened: Load model from " in capfd.readouterr().err


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_a_graph_without_outputs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    model = relu()
    del model.graph.output[:]
    file = tmp_path / "mute.onnx"
    file.write_bytes(model.SerializeToString())
    assert main([command, str(file), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"burnish: {file}: its graph has no outputs, so it answers nothing")
