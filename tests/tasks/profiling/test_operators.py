"""Operators of a profile: their kinds, their modules, and the queries whose times are summed."""

from __future__ import annotations

from tasks.profilers import Operator, _common, _onnx
from tasks.profilers._kinds import kind


def test_only_the_fastest_quarter_of_the_queries_is_summed() -> None:
    assert _common.calm([5, 1, 9, 2, 7, 3, 8, 4]) == [1, 3]
    assert _common.calm([4]) == [0]


def test_operators_are_sorted_into_kinds_by_their_type() -> None:
    kinds = {
        "Conv": "compute",
        "DequantizeLinear": "convert",
        "aten::to": "convert",
        "ReorderOutput": "reorder",
        "aten::copy_": "copy",
        "Reshape": "other",
        "Torch-Compiled Region: 0/0": "other",
    }
    assert {name: kind(name) for name in kinds} == kinds


def test_the_module_of_an_operator_is_derived_from_the_names_of_nodes_and_weights() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="/layer1/layer1.0/relu/Relu"),
        helper.make_node("Conv", ["y", "onnx::Conv_7"], ["z"], name="/layer1/layer1.0/conv2/Conv"),
    ]
    modules = _onnx.Modules(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert modules.path(["/layer1/layer1.0/conv2/Conv_nchwc"]) == "layer1/0/conv2"
    assert modules.path(["y_QuantizeLinear"]) == "layer1/0/relu"
    assert modules.path(["anything"], ["t", "layer3.1.conv1.weight_quantized"]) == "layer3/1/conv1"
    assert modules.path(["anything"]) == ""
    assert modules.path(["y"], heavy=True) == "layer1/0/relu", "this Relu is fused with no convolution"


def test_a_convolution_named_after_its_activation_belongs_to_the_module_of_its_weight() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["relu"], name="/act/Relu"),
    ]
    modules = _onnx.Modules(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert modules.path(["relu_nchwc"], ["x", "reorder", "reorder_1"], heavy=True) == "stem"
    assert modules.path(["/act/Relu"]) == "act"
    # ONNX Runtime lets modules share equal biases, so a bias decides last.
    shared = ["x", "reorder", "other.bias"]
    assert modules.path(["conv"], shared, heavy=True) == "stem"
    assert modules.path(["anything"], shared, heavy=True) == "other"


def test_an_operator_without_a_module_is_a_stack_of_its_own() -> None:
    plain = Operator(name="n", path="", type="Transpose", calls=2, total_ms=4, precision=None, provider="CPU")
    inner = Operator(name="m", path="layer1/0", type="Conv", calls=2, total_ms=6, precision=None, provider="CPU")
    assert _common.stacks_of([plain, inner, plain], 2) == {("Transpose",): 4, ("layer1", "0", "Conv"): 3}
