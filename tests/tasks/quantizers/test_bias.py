"""Bias correction: the mean of each output channel is that of the fp32 model again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

from tasks.quantizers import _bias, _sequential, onnxruntime_static
from tests.tasks.quantizers.graphs import IMAGES, images, model_file

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = """
    a = Conv <pads = [1, 1, 1, 1]> (input, first, first_bias) b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], group = 8> (b, depthwise) d = Relu (c)
    e = Conv (d, pointwise, pointwise_bias) f = Relu (e)
    g = GlobalAveragePool (f) h = Flatten (g) logits = Gemm <transB = 1> (h, last, last_bias)
"""
TOKENS = """
    shape = Constant <value_ints = [0, 3, 64]> () tokens = Reshape (input, shape)
    a = MatMul (tokens, first) b = Add (a, first_bias) c = Relu (b)
    d = MatMul (c, second) e = Add (second_bias, d)
    logits = ReduceMean <keepdims = 0> (e, axis)
"""


def chain(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return weights of which a few are large, so that the others are rounded coarsely."""
    shapes = {"first": (8, 3, 3, 3), "depthwise": (8, 1, 3, 3), "pointwise": (16, 8, 1, 1), "last": (5, 16)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for weight in weights.values():
        weight.reshape(len(weight), -1)[:, 0] *= 20
    biases = {"first_bias": 8, "pointwise_bias": 16, "last_bias": 5}
    return weights | {name: generator.normal(size=size).astype(np.float32) for name, size in biases.items()}


def tokens(generator: np.random.Generator) -> dict[str, np.ndarray]:
    weights = {name: generator.normal(size=shape) for name, shape in {"first": (64, 32), "second": (32, 5)}.items()}
    for weight in weights.values():
        weight[0] *= 20
    constants = weights | {"first_bias": generator.normal(size=32), "second_bias": generator.normal(size=5)}
    return {name: values.astype(np.float32) for name, values in constants.items()} | {"axis": np.array([1])}


GRAPHS = {"chain": (CHAIN, chain), "tokens": (TOKENS, tokens)}


def means(path: Path) -> np.ndarray:
    """Return the mean of each logit over the calibration images."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images().read(0, IMAGES)})[0].mean(0)


@pytest.mark.parametrize(
    ("base", "graph", "corrected", "sequential"),
    [
        ("u8s8", "chain", 0.4, 0.03),
        ("s8s8", "chain", 0.4, 0.03),
        ("u8s8-core", "chain", 0.2, 0.03),
        ("u8s8-core", "tokens", 0.8, 0.4),
        # Here the bias of an addition has 8 bits itself, and so has what is added.
        ("u8s8", "tokens", 0.8, 0.8),
    ],
)
def test_corrected_biases_bring_the_mean_of_the_logits_back(
    base: str, graph: str, corrected: float, sequential: float, tmp_path: Path
) -> None:
    text, weights = GRAPHS[graph]
    fp32 = model_file(text, weights(np.random.default_rng(0)), tmp_path)
    expected = means(fp32)
    errors = {}
    for word in ("", "-corrected", "-sequential"):
        path = onnxruntime_static.quantize(base + word, fp32, tmp_path, images())
        errors[word] = abs(means(path) - expected).mean()
        onnx.checker.check_model(onnx.load(path))
    assert errors["-corrected"] < corrected * errors[""], errors
    assert errors["-sequential"] < sequential * errors[""], errors


def test_a_layer_without_a_bias_gets_one_that_onnx_runtime_computes_in_int8(tmp_path: Path) -> None:
    from tests.support.optimized import optimized_operators

    fp32 = model_file(CHAIN, chain(np.random.default_rng(0)), tmp_path)
    path = onnxruntime_static.quantize("u8s8-corrected", fp32, tmp_path, images())
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    (depthwise,) = (node for node in convolutions if "depthwise" in node.input[1])
    assert len(depthwise.input) == 3
    assert optimized_operators(path, tmp_path).count("QLinearConv") == 3


@pytest.mark.parametrize("correct", [_bias.correct, _sequential.correct])
def test_a_form_without_layers_stays_as_it_is(correct: object, tmp_path: Path) -> None:
    fp32 = model_file("a = Relu (input) b = Flatten (a) logits = Identity (b)", {}, tmp_path)
    model = onnx.load(fp32)
    before = model.SerializeToString()
    correct(onnx.load(fp32), model, images())  # type: ignore[operator]
    assert model.SerializeToString() == before


def test_images_for_the_sequential_correction_are_spread_over_all() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 1000

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.arange(start, stop)

    spread = _sequential.Spread(Numbers())
    numbers = spread.read(0, len(spread))
    assert len(numbers) == _sequential.IMAGES and (numbers[0], numbers[-1]) == (0, 999)
    assert np.ptp(np.diff(numbers)) <= 1
