"""The OpenVINO runtime uses the precision, the number of streams and the input shape that were asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks import machine, runtimes
from tasks.runtimes import openvino_bf16
from tests.support import programs
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from tasks.runtimes import Session

pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file with two convolutions and a mean over pixels, for any batch size."""
    random = np.random.default_rng(0)
    tensor = helper.make_tensor_value_info
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) / 10, name)
        for name, shape in (("a", (32, 3, 3, 3)), ("b", (32, 32, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [tensor("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [tensor("y", TensorProto.FLOAT, ["batch", 32])],
        weights,
    )
    file = tmp_path_factory.mktemp("openvino") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def precisions(session: Any) -> set[str]:
    """Return the precisions of the convolutions in the graph that OpenVINO executes."""
    nodes = session._request.get_compiled_model().get_runtime_model().get_ops()
    nodes_info = [node.get_rt_info() for node in nodes]
    return {
        info["runtimePrecision"].astype(str)
        for info in nodes_info
        if info["layerType"].astype(str).startswith("Convolution")
    }


def open_and_run(name: str, model_path: Path, inputs: np.ndarray) -> tuple[Session, np.ndarray]:
    session = runtimes.load(name).open(model_path, "cpu", len(inputs), 1)
    return session, session.run(inputs)


def test_the_openvino_runtime_runs_f32_also_where_openvino_would_choose_bf16(model_path: Path) -> None:
    inputs = np.random.default_rng(1).standard_normal((2, 3, 16, 16), np.float32)
    session, answer = open_and_run("openvino", model_path, inputs)
    assert precisions(session) == {"f32"}
    assert session.provider == "OpenVINO CPU (f32, 1 stream, 1 thread)"
    expected = runtimes.load("onnxruntime").open(model_path, "cpu", 2, 1).run(inputs)
    assert np.abs(answer - expected).max() < 1e-5 * np.abs(expected).max()


def test_openvino_bf16_runs_in_bf16_or_says_why_this_cpu_cannot(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if openvino_bf16.unavailable("cpu") is None:
        assert openvino_bf16.INSTRUCTIONS & set(machine.cpu()[1])
        inputs = np.random.default_rng(1).standard_normal((2, 3, 16, 16), np.float32)
        session, answer = open_and_run("openvino_bf16", model_path, inputs)
        f32_answer = open_and_run("openvino", model_path, inputs)[1]
        assert precisions(session) == {"bf16"}
        assert "bf16" in session.provider
        assert 1e-4 < np.abs(answer - f32_answer).max() / np.abs(f32_answer).max() < 0.05
    for name in openvino_bf16.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "cpu", lambda: ("old", ("avx2",)))
    assert openvino_bf16.unavailable("cpu") == "this CPU has no bf16 instructions"
    monkeypatch.setattr(machine, "cpu", lambda: ("new", ("avx2", "amx_bf16")))
    assert openvino_bf16.unavailable("cpu") is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert openvino_bf16.unavailable("cpu") == "oneDNN is kept from bf16 instructions (ONEDNN_MAX_CPU_ISA=avx2)"


def test_slots_of_openvino_are_streams_that_share_the_threads(model_path: Path) -> None:
    session = runtimes.load("openvino").open(model_path, "cpu", 1, 2, slots=2)
    assert session.provider == "OpenVINO CPU (f32, 2 streams, 2 threads)"


def test_a_wrong_input_shape_is_an_error_of_one_line_and_the_session_stays_usable(model_path: Path) -> None:
    session, answer = open_and_run("openvino", model_path, np.ones((2, 3, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"^the model takes inputs of shape .*, got \[2, 4, 16, 16\]$"):
        session.run(np.ones((2, 4, 16, 16), np.float32))
    assert np.array_equal(session.run(np.ones((2, 3, 16, 16), np.float32)), answer)
    assert session.run(np.ones((3, 3, 16, 16), np.float32)).shape == (3, 32)


def test_a_file_that_is_no_model_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"^a\.onnx: OpenVINO does not read it: [^\n]*$"):
        runtimes.load("openvino").open(tmp_path / "a.onnx", "cpu", 1, 1)


def test_inputs_of_openvino_may_be_read_only_and_strided_but_not_of_another_type(model_path: Path) -> None:
    inputs = np.random.default_rng(1).standard_normal((4, 3, 16, 16), np.float32)
    session, expected = open_and_run("openvino", model_path, inputs)
    inputs.flags.writeable = False
    assert np.array_equal(session.run(inputs), expected)
    strided = np.repeat(inputs, 2, axis=3)[..., ::2]
    assert np.array_equal(session.run(strided), expected)
    with pytest.raises(ValueError, match="takes inputs of type float32, got float64"):
        session.run(inputs.astype(np.float64))


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "import sys; from tasks import runtimes; runtimes.load('openvino').load_library('cpu');"
        "assert sys.modules['openvino_telemetry'] is None;"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_signals_are_handled_after_models_are_closed_in_the_order_in_which_they_were_opened(model_path: Path) -> None:
    done = subprocess.run(
        programs.command("openvino_closed", model_path),
        env=programs.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
