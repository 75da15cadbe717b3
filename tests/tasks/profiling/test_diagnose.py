"""Each finding appears on a graph that is built to have its fault, executed and profiled; a healthy graph has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks import profilers
from tasks.profilers import Convolution
from tasks.profiling.diagnose import Case, diagnose
from tests.support.graphs import MACHINE, Graph, by_words, case, finding_about, findings_of, operator

if TYPE_CHECKING:
    from pathlib import Path


def test_a_healthy_float_graph_has_no_finding(tmp_path: Path) -> None:
    graph = Graph()
    for name in ("first", "second", "third"):
        graph.conv(name, 16, 16)
        graph.add("Relu", f"{name}_relu")
    assert findings_of(graph, tmp_path) == {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_healthy_int8_graph_has_no_finding(tmp_path: Path, runtime: str) -> None:
    """The graph ends in a pool as classifiers do: with AMX, to convert a whole image back takes a fifth of the time."""
    graph = Graph()
    graph.quantized("input")
    for name in ("first", "second", "third", "fourth", "fifth", "sixth"):
        graph.conv(name, 64, 16 if name == "first" else 64, int8=True)
        graph.quantized(name)
    graph.add("GlobalAveragePool", "pool")
    graph.quantized("pool")
    assert findings_of(graph, tmp_path, runtime=runtime) == {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_conversions_at_the_input_and_the_output_of_an_int8_graph_are_no_finding(tmp_path: Path, runtime: str) -> None:
    """Every int8 graph needs them, although so small a graph spends most of its time in them."""
    graph = Graph()
    graph.quantized("input")
    graph.conv("only", 8, 16, int8=True)
    graph.quantized("only")
    path = graph.save(tmp_path / "model.onnx")
    inputs = np.ones((1, 16, 32, 32), np.float32)
    request = profilers.Request(
        path=path, runtime=runtime, device="cpu", threads=1, inputs=inputs, queries=20, folder=tmp_path
    )
    measured = profilers.load(runtime).measure(request)
    edges = {op.name for op in measured.operators if op.edge}
    assert edges and not any(op.edge for op in measured.operators if "Conv" in op.type)
    assert edges == {op.name for op in measured.operators if "Conv" not in op.type}
    assert runtime == "openvino" or edges >= {"input_q", "only_dq"}, "OpenVINO counts nothing below a microsecond"
    assert "conversions and reorders" not in by_words(diagnose(Case(profile=measured, **MACHINE)))


def test_a_qdq_pair_around_an_operator_without_an_int8_kernel_is_a_finding(tmp_path: Path) -> None:
    graph = Graph()
    graph.quantized("input")
    graph.conv("good", 16, 16, int8=True)
    graph.quantized("good")
    graph.add("Erf", "odd_one")
    graph.quantized("odd_one")
    graph.conv("last", 16, 16, int8=True)
    graph.quantized("last")
    finding = finding_about(findings_of(graph, tmp_path), "pairs that were not fused")
    assert finding.nodes == ("odd_one",)
    assert "Erf" in finding.evidence
    assert "quantize" in finding.remedy


def test_a_float_convolution_in_an_int8_graph_is_a_finding_of_high_severity(tmp_path: Path) -> None:
    graph = Graph()
    graph.quantized("input")
    graph.conv("good", 16, 16, int8=True)
    graph.quantized("good")
    graph.conv("forgotten", 32, 16)
    graph.add("Relu", "relu")
    finding = finding_about(findings_of(graph, tmp_path), "left in floating point")
    # The Relu is fused with its convolution.
    assert any("relu" in name or "forgotten" in name for name in finding.nodes)
    assert "Conv (fp32)" in finding.evidence
    assert finding.severity == "high"


def test_a_graph_in_which_no_qdq_pair_is_fused_is_found_to_be_fake_quantization(tmp_path: Path) -> None:
    graph = Graph()
    # ONNX Runtime has no convolution that takes 16-bit activations.
    graph.quantized("input", np.uint16)
    for name in ("first", "second"):
        graph.conv(name, 16, 16, int8=True)
        graph.quantized(name, np.uint16)
    findings = findings_of(graph, tmp_path)
    finding = finding_about(findings, "fake quantization: no Q/DQ pair was fused")
    assert finding.severity == "high"
    assert {"first", "second"} <= set(finding.nodes)
    assert not any("were not fused" in title or "left in" in title for title in findings), "one cause makes one finding"


def test_a_fake_quantize_module_of_pytorch_is_found_to_be_fake_quantization(tmp_path: Path) -> None:
    import torch
    from torch.ao.quantization import FakeQuantize

    class Simulated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fake = torch.nn.Conv2d(3, 8, 3), FakeQuantize()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.fake(x))

    model = Simulated().eval()
    inputs = np.ones((1, 3, 32, 32), np.float32)
    model(torch.from_numpy(inputs))
    torch.jit.save(torch.jit.trace(model, torch.from_numpy(inputs)), tmp_path / "model.ts")
    path = tmp_path / "model.ts"
    request = profilers.Request(
        path=path, runtime="torchscript", device="cpu", threads=1, inputs=inputs, queries=20, folder=tmp_path
    )
    measured = profilers.load("torchscript").measure(request)
    finding = finding_about(by_words(diagnose(Case(profile=measured, **MACHINE))), "simulated in floating point")
    assert any("fake_quant" in node for node in finding.nodes)
    assert "never time it as int8" in finding.remedy


def test_layout_changes_inside_a_graph_are_a_finding_that_names_their_nodes(tmp_path: Path) -> None:
    graph = Graph()
    flat = graph.weight("flat", [1, 16384], np.int64)
    image = graph.weight("image", [1, 16, 32, 32], np.int64)
    for number in range(6):
        graph.add("Transpose", f"transpose_{number}", perm=[0, 2, 3, 1])
        graph.add("Reshape", f"flat_{number}", flat)
        graph.add("Relu", f"relu_{number}")
        graph.add("Reshape", f"image_{number}", image)
    finding = finding_about(findings_of(graph, tmp_path), "conversions and reorders")
    assert "layout changes" in finding.evidence
    assert "copies" not in finding.evidence
    assert {f"transpose_{number}" for number in range(6)} <= set(finding.nodes)


def test_convolutions_whose_channels_are_no_multiple_of_8_are_a_finding(tmp_path: Path) -> None:
    graph = Graph()
    graph.conv("stem", 16, 3)
    graph.conv("narrow", 12, 16)
    graph.conv("wide", 16, 12)
    finding = finding_about(findings_of(graph, tmp_path, channels=3), "no multiple of 8")
    assert finding.nodes == ("narrow (16→12)", "wide (12→16)"), "the three channels of an image are no mistake"
    assert "2 of 3 convolutions" in finding.evidence
    assert "round_to=8" in finding.remedy


def test_int8_on_a_cpu_without_int8_instructions_is_a_finding() -> None:
    conv = operator("conv", "QLinearConv", 1, precision="int8")
    without_vnni = case(conv, quantized=True, cpu_features=("avx2",))
    assert "avx2" in finding_about(by_words(diagnose(without_vnni)), "without VNNI or AMX").evidence
    for changes in (
        {"cpu_features": ("avx2", "avx_vnni")},
        {"cpu_features": ("amx_int8",)},
        {"cpu_features": ("asimddp",)},
        {"cpu_features": ("avx2",), "device": "cuda:0"},
    ):
        assert diagnose(case(conv, quantized=True, **changes)) == []


def test_a_gpu_that_waits_for_the_host_is_a_finding() -> None:
    conv = operator("conv", "Conv", 1)
    finding = finding_about(
        by_words(diagnose(case(conv, device="cuda:0", split=(0.1, 2.5, 1.25, 0.1)))), "enqueue-bound"
    )
    assert "2.5 ms" in finding.evidence
    assert "1.25 ms" in finding.evidence
    assert "CUDA graph" in finding.remedy
    assert diagnose(case(conv, device="cuda:0", split=(0.1, 1.0, 1.25, 0.1))) == []


def test_idle_cores_are_a_finding() -> None:
    conv = operator("conv", "Conv", 1)
    finding = finding_about(by_words(diagnose(case(conv, threads=1, cores=4))), "fewer threads")
    assert finding.evidence.startswith("1 of 4 cores")
    assert "--threads 4" in finding.remedy
    assert diagnose(case(conv, threads=4, cores=4)) == []


def test_operators_that_take_almost_no_time_are_no_finding() -> None:
    int8 = [operator(f"conv{n}", "QLinearConv", 10, precision="int8") for n in range(3)]
    pool = operator("pool", "ReduceMean", 0.2, unfused=True)
    edge = operator("input_q", "QuantizeLinear", 0.3)
    assert diagnose(case(*int8, pool, edge, quantized=True)) == []


def test_a_few_reorders_are_a_finding_only_if_they_take_a_fifth_of_the_time() -> None:
    conv = operator("conv", "Conv", 85)
    edges = [operator(f"reorder{n}", "Reorder", 5) for n in range(3)]
    assert diagnose(case(conv, *edges)) == []
    inner = [operator(f"inner{n}", "Reorder", 1) for n in range(2)]
    assert finding_about(by_words(diagnose(case(conv, *edges, *inner))), "reorders").severity == "medium"
    assert (
        finding_about(by_words(diagnose(case(conv, operator("all", "Transpose", 30)))), "reorders").severity == "high"
    )


def test_findings_are_sorted_by_severity_with_the_highest_first() -> None:
    odd_convolution = Convolution(name="conv", path="conv", in_channels=3, out_channels=10)
    findings = diagnose(
        case(operator("conv", "Conv", 80, path="conv"), convolutions=(odd_convolution,), threads=15, cores=16)
    )
    assert [finding.severity for finding in findings] == ["high", "medium"]
    assert "no multiple" in findings[0].what
    assert "100% of the time" in findings[0].evidence
