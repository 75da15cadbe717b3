"""The first finding is the main cause: dynamic quantization, BatchNormalization that was not folded, weights that are
inputs of the graph, or too few queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks import profilers
from tasks.profilers import LEAST_QUERIES, Measured, Operator
from tasks.profiling.diagnose import Case, diagnose
from tests.support.graphs import Graph, case, findings_of, operator

if TYPE_CHECKING:
    from pathlib import Path

WIDE = 192
"""Channels per convolution: so wide, convolutions take most of the time on every CPU, busy or not."""


def profiled(path: Path, runtime: str = "onnxruntime", shape: tuple[int, ...] = (1, 16, 32, 32)) -> Measured:
    inputs = np.random.default_rng(1).standard_normal(shape, np.float32)
    request = profilers.Request(
        path=path, runtime=runtime, device="cpu", threads=1, inputs=inputs, queries=20, folder=path.parent
    )
    return profilers.load(runtime).measure(request)


def findings(measured: Measured, runtime: str = "onnxruntime") -> Any:
    """Return the findings for a machine of which the runtime uses all cores."""
    return diagnose(
        Case(profile=measured, runtime=runtime, device="cpu", threads=1, cores=1, cpu_features=("avx512_vnni",))
    )


def batch_norm(graph: Graph, name: str, channels: int = 16) -> None:
    parts = (graph.weight(f"{name}.{part}", np.full(channels, 0.5)) for part in ("scale", "bias", "mean", "variance"))
    graph.add("BatchNormalization", name, *parts)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_convolutions_of_dynamic_quantization_are_the_main_cause(tmp_path: Path, runtime: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = Graph()
    for name in ("first", "second", "third"):
        graph.conv(name, WIDE, 16 if name == "first" else WIDE)
        graph.add("Relu", f"{name}_relu")
    quantize_dynamic(graph.save(tmp_path / "f.onnx"), tmp_path / "d.onnx", weight_type=QuantType.QUInt8)
    main_cause, *others = findings(profiled(tmp_path / "d.onnx", runtime), runtime)
    assert main_cause.what == "integer convolutions of dynamic quantization"
    assert main_cause.severity == "high"
    assert {"second_quant", "third_quant"} <= set(main_cause.nodes)
    assert main_cause.share > 0.4
    assert f"{main_cause.share:.0%} of the time" in main_cause.evidence
    assert "quantize statically" in main_cause.remedy
    assert not any("fake" in finding.what or "left in floating" in finding.what for finding in others), (
        "one cause makes one finding"
    )


def test_dynamic_quantization_of_matrix_products_is_no_finding() -> None:
    product = operator("fc", "DynamicQuantizeMatMul", 9, precision="int8")
    assert diagnose(case(product, quantized=True, dynamic=True)) == []


def unfolded_finding(graph: Graph, folder: Path) -> Any:
    return next(finding for title, finding in findings_of(graph, folder).items() if "was not folded" in title)


def test_a_batch_norm_that_follows_no_convolution_is_a_finding(tmp_path: Path) -> None:
    graph = Graph()
    graph.conv("stem", 16, 16)
    for number in range(8):
        graph.add("Relu", f"relu_{number}")
        batch_norm(graph, f"norm_{number}")
    finding = unfolded_finding(graph, tmp_path)
    assert {f"norm_{number}" for number in range(8)} <= {name.removesuffix("_bn_nchwc") for name in finding.nodes}
    assert "it follows Relu, no convolution" in finding.evidence
    assert "fuses it with the activation" in finding.remedy


def test_a_batch_norm_whose_convolutions_output_is_used_elsewhere_is_a_finding(tmp_path: Path) -> None:
    graph = Graph()
    for number in range(6):
        graph.conv(f"conv_{number}", 16 if number < 1 else 8, 16 if number < 2 else 8)
        batch_norm(graph, f"norm_{number}", 16 if number < 1 else 8)
        graph.add("Add", f"sum_{number}", f"conv_{number}")
    # Convolutions of 1×1 have the fewest products, so that the BatchNormalizations take a share worth a finding.
    for node in graph.nodes:
        if node.op_type == "Conv":
            node.attribute[0].ints[:] = [0, 0, 0, 0]
    for tensor in graph.weights:
        if tensor.name.endswith(".weight"):
            values = onnx.numpy_helper.to_array(tensor)[:, :, :1, :1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    finding = unfolded_finding(graph, tmp_path)
    assert "what its convolution gives is used elsewhere, too" in finding.evidence
    assert "use the output of the BatchNormalization in both places" in finding.remedy


def test_a_batch_norm_that_is_folded_is_no_finding(tmp_path: Path) -> None:
    graph = Graph()
    for number in range(3):
        graph.conv(f"conv_{number}", 16, 16)
        batch_norm(graph, f"norm_{number}")
    path = graph.save(tmp_path / "model.onnx")
    assert profiled(path).normalisations == {}
    assert findings_of(graph, tmp_path) == {}


def test_weights_that_are_graph_inputs_are_the_main_cause_of_unfolded_batch_norms(tmp_path: Path) -> None:
    graph = Graph()
    for number in range(3):
        graph.conv(f"conv_{number}", 16, 16)
        batch_norm(graph, f"norm_{number}")
    model = onnx.load(graph.save(tmp_path / "model.onnx"))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.save(model, tmp_path / "model.onnx")
    main_cause, *others = findings(profiled(tmp_path / "model.onnx"))
    assert main_cause.what == "weights that are inputs of the graph"
    assert "15 weights" in main_cause.evidence
    assert set(main_cause.nodes) == {"conv_0", "conv_1", "conv_2"}
    assert "remove_initializer_from_input" in main_cause.remedy
    assert not any("was not folded" in finding.what for finding in others), "one cause makes one finding"


def test_the_finding_on_batch_norms_in_pytorch_says_how_to_fold_them() -> None:
    norm = Operator(
        name="bn1", path="bn1", type="aten::batch_norm", calls=1, total_ms=15, precision="fp32", provider="CPU"
    )
    (finding,) = diagnose(
        case(
            operator("conv1", "aten::conv2d", 85),
            norm,
            normalisations={"bn1": "PyTorch executes the modules as they are written"},
        )
    )
    assert (finding.severity, finding.nodes) == ("medium", ("bn1",))
    assert "export it to ONNX or TorchScript" in finding.remedy


def test_of_two_findings_of_equal_severity_the_one_with_more_time_comes_first() -> None:
    norm = operator("bn", "BatchNormalization", 30)
    conv = operator("conv", "Conv", 20)
    reorder = [operator(f"r{n}", "Reorder", 10) for n in range(5)]
    for operators, main_cause in (
        ((norm, conv, *reorder), "conversions and reorders"),
        ((operator("bn", "BatchNormalization", 90), conv, *reorder), "BatchNormalization"),
    ):
        diagnosed = diagnose(case(*operators, normalisations={"bn": "it is in training mode"}))
        assert [finding.severity for finding in diagnosed] == ["high", "high"]
        assert diagnosed[0].what.startswith(main_cause)


def test_with_too_few_queries_the_diagnosis_says_so_and_nothing_about_shares() -> None:
    operators = [operator("all", "Transpose", 30), operator("conv", "Conv", 1)]
    few_queries, idle_cores = diagnose(case(*operators, queries=LEAST_QUERIES - 1, threads=1, cores=4))
    assert few_queries.what == "too few queries to say where the time goes"
    assert "--queries 20" in few_queries.remedy
    assert idle_cores.what == "fewer threads than physical cores"
    enough = diagnose(case(*operators, queries=LEAST_QUERIES))
    assert [finding.what for finding in enough] == ["conversions and reorders"]
