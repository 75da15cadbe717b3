"""Norms that ONNX Runtime's preparation leaves in the graph, and that can be folded into a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

from tasks.quantizers import _onnxruntime
from tests.tasks.quantizers.graphs import images, model_file

if TYPE_CHECKING:
    from pathlib import Path

NORM = "BatchNormalization <epsilon = 0.01> (NAME, scale, shift, mean, variance)"
HEAD = "z = GlobalAveragePool (y) flat = Flatten (z) logits = Gemm (flat, last)"
FOLDED = {
    "a convolution before it, and SiLU behind it": (
        f"a = Conv (input, first) x = {NORM} s = Sigmoid (x) y = Mul (x, s) {HEAD}"
    ),
    "a Gemm before it": (
        f"a = Conv (input, first) p = GlobalAveragePool (a) h = Flatten (p) g = Gemm <transB = 1> (h, square, bias)"
        f" n = {NORM} logits = Gemm (n, last)"
    ).replace("NAME", "g"),
    "a convolution behind it": f"a = Conv (input, first) x = Relu (a) b = {NORM} y = Conv (b, second, bias) {HEAD}",
    "a grouped convolution behind it": (
        f"a = Conv (input, first) x = Relu (a) b = {NORM} y = Conv <group = 4> (b, grouped) {HEAD}"
    ),
    "two layers behind it": (
        f"a = Conv (input, first) x = Relu (a) b = {NORM} c = Conv (b, second, bias) d = Conv (b, second)"
        f" y = Add (c, d) {HEAD}"
    ),
    "a Gemm behind it": (
        f"a = Conv (input, first) p = GlobalAveragePool (a) r = Relu (p) x = Flatten (r) n = {NORM}"
        " logits = Gemm (n, last)"
    ),
}
KEPT = {
    "padding behind it": (
        f"a = Conv (input, first) x = Relu (a) b = {NORM} y = Conv <pads = [1, 1, 1, 1]> (b, wide) {HEAD}"
    ),
    "an activation function behind it": (
        f"a = Conv (input, first) x = Relu (a) b = {NORM} c = Relu (b) y = Conv (c, second) {HEAD}"
    ),
    "a layer before it that something else reads": f"a = Conv (input, first) b = {NORM} y = Add (a, b) {HEAD}",
}


def prepared(text: str, folder: Path) -> tuple[Path, Path]:
    """Return the file of a graph, and the one that is prepared for quantizing."""
    generator = np.random.default_rng(0)
    shapes = {
        "first": (8, 3, 3, 3),
        "second": (8, 8, 1, 1),
        "grouped": (8, 2, 1, 1),
        "wide": (8, 8, 3, 3),
        "square": (8, 8),
        "last": (8, 10),
    }
    constants = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    constants |= {name: generator.uniform(0.5, 2, 8) for name in ("scale", "shift", "mean", "variance", "bias")}
    used = {name: values.astype(np.float32) for name, values in constants.items() if name in text}
    first = "x" if " x = Relu" in text or " x = Flatten" in text else "a"
    fp32 = model_file(text.replace("NAME", first), used, folder)
    with _onnxruntime.quiet():
        return fp32, _onnxruntime.preprocessed(fp32, folder)


def logits(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images().read(0, 8)})[0]


@pytest.mark.parametrize("case", FOLDED)
def test_a_norm_is_folded_into(case: str, tmp_path: Path) -> None:
    fp32, path = prepared(FOLDED[case], tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in [node.op_type for node in model.graph.node]
    np.testing.assert_allclose(logits(path), logits(fp32), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", KEPT)
def test_a_norm_stays_with(case: str, tmp_path: Path) -> None:
    fp32, path = prepared(KEPT[case], tmp_path)
    assert "BatchNormalization" in [node.op_type for node in onnx.load(path).graph.node]
    np.testing.assert_allclose(logits(path), logits(fp32), rtol=1e-4, atol=1e-4)
