"""SmoothQuant and equalisation: the same function in fp32, and a closer one in int8 where channels differ much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

from tasks.measure.fidelity import divergence
from tasks.quantizers import _equalise, _smooth, onnxruntime_static
from tests.tasks.quantizers.graphs import IMAGES, images, model_file

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = """
    shape = Constant <value_ints = [0, 12, 16]> () tokens = Reshape (input, shape)
    a = LayerNormalization (tokens, scale, shift)
    query = MatMul (a, query_weight) key = MatMul (a, key_weight)
    b = Mul (query, key) c = Relu (b)
    d = LayerNormalization (c, scale, shift)
    e = MatMul (d, hidden_weight) f = Add (hidden_bias, e) g = Relu (f) h = MatMul (g, out_weight)
    flat = Flatten (h) logits = Gemm (flat, head)
"""
"""Two normalizations with one scale; matrix products behind them, and one behind a linear layer with a ReLU."""
DEPTHWISE = """
    a = Conv <pads = [1, 1, 1, 1]> (input, first, first_bias) b = ACTIVATION
    c = Conv <pads = [1, 1, 1, 1], group = 8> (b, depthwise) d = Relu (c)
    e = Conv (d, pointwise, pointwise_bias) f = Relu (e)
    g = GlobalAveragePool (f) h = Flatten (g) logits = Gemm <transB = 1> (h, last)
"""


def block() -> dict[str, np.ndarray]:
    """Return constants of `BLOCK` with three outlying channels, as normalizations of large transformers have them."""
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.5, 1, 16)
    scale[[3, 7, 11]] *= 60
    shapes = {
        "query_weight": (16, 16),
        "key_weight": (16, 16),
        "hidden_weight": (16, 24),
        "hidden_bias": (24,),
        "out_weight": (24, 16),
        "head": (192, 10),
    }
    constants = {name: generator.normal(size=shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    # The outliers' weights are small, so that the other channels matter, too.
    for name in ("query_weight", "key_weight", "hidden_weight"):
        constants[name][[3, 7, 11]] /= 60
    constants |= {"scale": scale, "shift": generator.normal(size=16) / 10}
    return {name: values.astype(np.float32) for name, values in constants.items()}


def depthwise() -> dict[str, np.ndarray]:
    """Return constants of `DEPTHWISE` in which a channel's values are up to 100 times those of another one."""
    generator = np.random.default_rng(0)
    spread = np.geomspace(1, 100, 8)
    constants = {
        "first": generator.normal(size=(8, 3, 3, 3)) * spread.reshape(-1, 1, 1, 1),
        "first_bias": generator.normal(size=8) * spread,
        "depthwise": generator.normal(size=(8, 1, 3, 3)),
        "pointwise": generator.normal(size=(16, 8, 1, 1)) / spread.reshape(1, -1, 1, 1),
        "pointwise_bias": generator.normal(size=16),
        "last": generator.normal(size=(10, 16)) / 10,
    }
    return {name: values.astype(np.float32) for name, values in constants.items()}


def logits(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images().read(0, IMAGES)})[0]


def same_function(path: Path, expected: np.ndarray) -> bool:
    return bool(abs(logits(path) - expected).max() < 1e-4 * abs(expected).max())


@pytest.mark.parametrize("word", _smooth.ALPHAS)
def test_a_smoothed_graph_computes_the_same(word: str, tmp_path: Path) -> None:
    fp32 = model_file(BLOCK, block(), tmp_path)
    onnxruntime_static.quantize(f"u8s8-{word}", fp32, tmp_path, images())
    smoothed = onnx.load(tmp_path / word / "preprocessed.onnx")
    assert same_function(tmp_path / word / "preprocessed.onnx", logits(fp32))
    before = onnx.load(tmp_path / "preprocessed.onnx")
    assert [node.op_type for node in smoothed.graph.node] == [node.op_type for node in before.graph.node]


def test_smoothing_brings_outlying_channels_down_and_the_divergence_too(tmp_path: Path) -> None:
    fp32 = model_file(BLOCK, block(), tmp_path)
    expected = logits(fp32)
    divergences = {
        setting: divergence(expected, logits(onnxruntime_static.quantize(setting, fp32, tmp_path, images())))
        for setting in ("u8s8-core", "u8s8-smooth50-core")
    }
    assert divergences["u8s8-smooth50-core"] < divergences["u8s8-core"] / 2, divergences
    smoothed = onnx.load(tmp_path / "smooth50" / "preprocessed.onnx")
    scales = [node.input[1] for node in smoothed.graph.node if node.op_type == "LayerNormalization"]
    assert len(set(scales)) == 2, "the normalizations have scales of their own now"
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in smoothed.graph.initializer}
    for name in scales:
        assert abs(values[name]).max() < 10 * np.median(abs(values[name]))


def test_a_normalization_that_something_else_reads_too_is_left_alone(tmp_path: Path) -> None:
    text = (
        "shape = Constant <value_ints = [0, 12, 16]> () tokens = Reshape (input, shape)"
        " a = LayerNormalization (tokens, scale, shift) b = MatMul (a, query_weight) c = Add (a, b)"
        " logits = Flatten (c)"
    )
    fp32 = model_file(text, {name: block()[name] for name in ("scale", "shift", "query_weight")}, tmp_path)
    with pytest.raises(ValueError, match=f"^{_smooth.NOTHING}$"):
        onnxruntime_static.quantize("u8s8-smooth50", fp32, tmp_path, images())


@pytest.mark.parametrize(
    "activation", ["Relu (a)", "LeakyRelu <alpha = 0.3> (a)", "Identity (a)", "Clip (a, zero, six)"]
)
def test_an_equalised_graph_computes_the_same_on_the_calibration_images(activation: str, tmp_path: Path) -> None:
    limits = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    fp32 = model_file(DEPTHWISE.replace("ACTIVATION", activation), depthwise() | limits, tmp_path)
    onnxruntime_static.quantize("u8s8-equalised", fp32, tmp_path, images())
    assert same_function(tmp_path / "equalised" / "preprocessed.onnx", logits(fp32))


def test_equalising_makes_the_ranges_of_channels_equal_and_the_divergence_smaller(tmp_path: Path) -> None:
    fp32 = model_file(DEPTHWISE.replace("ACTIVATION", "Relu (a)"), depthwise(), tmp_path)
    expected = logits(fp32)
    divergences = {
        setting: divergence(expected, logits(onnxruntime_static.quantize(setting, fp32, tmp_path, images())))
        for setting in ("u8s8-core", "u8s8-equalised-core")
    }
    assert divergences["u8s8-equalised-core"] < divergences["u8s8-core"] / 2, divergences
    model = onnx.load(tmp_path / "equalised" / "preprocessed.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = session.run(["b"], {"input": images().read(0, IMAGES)})[0].max((0, 2, 3))
    assert largest.min() > 0.99 * largest.max()


def test_through_a_function_that_is_not_homogeneous_nothing_is_scaled(tmp_path: Path) -> None:
    text = "a = Conv (input, first, first_bias) b = HardSwish (a) c = Conv (b, pointwise) logits = Flatten (c)"
    constants = {name: depthwise()[name] for name in ("first", "first_bias", "pointwise")}
    fp32 = model_file(text, constants, tmp_path)
    with pytest.raises(ValueError, match=f"^{_equalise.NOTHING}$"):
        onnxruntime_static.quantize("u8s8-equalised", fp32, tmp_path, images())
