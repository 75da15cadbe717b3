"""Int8 forms of which a part computes in floating point."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.forms.blocks import Block, blocks
from tasks.forms.dataflow import names_of
from tasks.forms.mixed import in_float
from tasks.quantizers import _nncf
from tasks.runtimes import openvino
from tests.support.networks import SIZE, graph, images, outputs, quantized
from tests.support.optimized import optimized_operators

NNCF = pytest.mark.skipif(_nncf.unavailable() is not None, reason=str(_nncf.unavailable()))
FORMS = [
    ("resnet18", "u8s8"),
    ("mobilenetv3_small_050", "u8s8-percentile"),
    ("convnext_atto", "u8s8-reduced"),
    ("densenet121", "u8s8-core"),
    ("deit_tiny_patch16_224", "s8s8"),
    pytest.param("mobilenetv3_small_050", "nncf-mixed", marks=NNCF),
    pytest.param("deit_tiny_patch16_224", "nncf-performance", marks=NNCF),
]


def kinds_of(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def last_tensor(model: onnx.ModelProto, block: Block) -> str:
    """Return the tensor that the last node of a block makes."""
    return next(
        node.output[0]
        for node, name in zip(model.graph.node, names_of(model.graph), strict=True)
        if name == block.nodes[-1]
    )


@pytest.mark.parametrize(("name", "setting"), FORMS)
def test_with_all_nodes_it_is_the_float_graph_and_with_none_the_int8_form(
    name: str, setting: str, tmp_path: Path
) -> None:
    fp32 = graph(name)
    int8 = quantized(fp32, setting, tmp_path)
    assert in_float(int8, fp32, ()).SerializeToString() == int8.SerializeToString()
    whole = in_float(int8, fp32, names_of(fp32.graph))
    onnx.checker.check_model(whole, full_check=True)
    assert not [kind for kind in kinds_of(whole) if "Quantize" in kind]
    assert np.abs(outputs(whole)[0] - outputs(fp32)[0]).max() < 1e-5
    assert np.abs(outputs(int8)[0] - outputs(fp32)[0]).max() > 1e-4

    parts = blocks(fp32)
    half = [part for part in parts if parts.index(part) < 6]
    mixed = in_float(int8, fp32, [node for part in half for node in part.nodes])
    onnx.checker.check_model(mixed, full_check=True)
    # From the image on, all is as in the float graph up to the end of the sixth block.
    tensor = last_tensor(fp32, half[-1])
    expected, found = outputs(fp32, (tensor,))[0], outputs(mixed, (tensor,))[0]
    assert np.abs(expected - found).max() < 1e-5 * max(1, np.abs(expected).max())
    assert 0 < kinds_of(mixed)["QuantizeLinear"] < kinds_of(int8)["QuantizeLinear"]
    assert {entry.key: entry.value for entry in mixed.metadata_props}["classes"] == "ten"
    used = {name for node in mixed.graph.node for name in node.input}
    assert {tensor.name for tensor in mixed.graph.initializer} <= used
    # In two steps it is the same as at once.
    steps = in_float(int8, fp32, half[0].nodes)
    steps = in_float(steps, fp32, [node for part in half[1:] for node in part.nodes])
    assert np.array_equal(outputs(steps)[0], outputs(mixed)[0])
    assert kinds_of(steps) == kinds_of(mixed)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_all_other_layers_stay_in_int8(name: str, tmp_path: Path) -> None:
    """What ONNX Runtime executes in int8 tells it: a convolution next to the block would be lost without its pair."""
    fp32 = graph(name)
    int8 = quantized(fp32, "u8s8", tmp_path)
    kinds = dict(zip(names_of(fp32.graph), (node.op_type for node in fp32.graph.node), strict=True))
    onnx.save(int8, tmp_path / "int8.onnx")
    before = Counter(optimized_operators(tmp_path / "int8.onnx", tmp_path))
    convolutional = [block for block in blocks(fp32) if "Conv" in map(kinds.__getitem__, block.nodes)]
    for block in convolutional[1::4]:
        onnx.save(in_float(int8, fp32, block.nodes), tmp_path / "mixed.onnx")
        after = Counter(optimized_operators(tmp_path / "mixed.onnx", tmp_path))
        own = sum(kinds[node] == "Conv" for node in block.nodes)
        assert before["QLinearConv"] - after["QLinearConv"] == own


def test_openvino_computes_the_same(tmp_path: Path) -> None:
    fp32 = graph("mobilenetv3_small_050")
    mixed = in_float(quantized(fp32, "u8s8", tmp_path), fp32, blocks(fp32)[3].nodes)
    onnx.save(mixed, tmp_path / "mixed.onnx")
    openvino.load_library("cpu")
    session = openvino.open(tmp_path / "mixed.onnx", "cpu", 4, 1)
    found = session.run(images(4).read(0, 4))
    session.close()
    assert np.abs(found - outputs(mixed)[0]).max() < 0.05 * np.abs(found).max()


def small(more: Any = ()) -> onnx.ModelProto:
    """Return a graph in which a Relu follows a MaxPool, so that the quantizer replaces it by a range."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (8, 10)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], name="first"),
        helper.make_node("MaxPool", ["c"], ["m"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["d"], name="second"),
        helper.make_node("GlobalAveragePool", ["d"], ["g"], name="average"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "u"], ["logits"], name="last"),
        *more,
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", ["n", 3, SIZE, SIZE]), ("logits", ["n", 10]))
    ]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_an_activation_that_became_a_range_comes_back(tmp_path: Path) -> None:
    fp32 = small()
    int8 = quantized(fp32, "u8s8", tmp_path)
    assert "Relu" not in kinds_of(int8)
    mixed = in_float(int8, fp32, ["first", "second"])
    assert kinds_of(mixed)["Relu"] == 1
    expected, found = outputs(fp32, ("d",))[0], outputs(mixed, ("d",))[0]
    assert np.abs(expected - found).max() < 0.02 * np.abs(expected).max()
    # The Relu alone has nothing before it in the int8 form: what was merged with it comes along.
    onnx.checker.check_model(in_float(int8, fp32, ["relu"]))


def test_nodes_that_cannot_be_matched_are_named(tmp_path: Path) -> None:
    fp32 = small()
    int8 = quantized(fp32, "u8s8", tmp_path)
    with pytest.raises(ValueError, match="the float graph has no node third"):
        in_float(int8, fp32, ["first", "third"])
    other = small()
    for node in other.graph.node:
        node.input[:] = [name if name in ("w", "v", "u") else f"other_{name}" for name in node.input]
        node.output[:] = [f"other_{name}" for name in node.output]
    other.graph.input[0].name = "other_input"
    other.graph.output[0].name = "other_logits"
    with pytest.raises(ValueError, match="node first: the int8 form has no tensor other_input"):
        in_float(int8, other, ["first"])


def test_a_float_graph_of_another_opset_is_converted(tmp_path: Path) -> None:
    fp32 = small()
    int8 = onnx.version_converter.convert_version(quantized(fp32, "s8s8", tmp_path), 19)
    mixed = in_float(int8, fp32, ["first", "pool", "relu"])
    onnx.checker.check_model(mixed)
    assert np.abs(outputs(mixed, ("r",))[0] - outputs(fp32, ("r",))[0]).max() < 1e-5
