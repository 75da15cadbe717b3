"""Each finding on a graph made for it, executed and profiled; a healthy model has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks import profilers
from tasks.profilers import Convolution, Measured, Operator
from tasks.profiling.diagnose import Case, Finding, diagnose

if TYPE_CHECKING:
    from pathlib import Path

ROOMY: dict[str, Any] = {
    "runtime": "onnxruntime",
    "device": "cpu",
    "threads": 2,
    "cores": 2,
    "cpu_features": ("avx2", "avx512_vnni"),
}


class Graph:
    """A chain of ONNX nodes on an image of 16 channels and 32x32 pixels."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng, self.last = np.random.default_rng(0), "input"

    def weight(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> None:
        """A node that takes the last one's output; its own is called as it is."""
        self.nodes.append(helper.make_node(kind, [self.last, *inputs], [name], name=name, **attributes))
        self.last = name

    def quantized(self, name: str, dtype: Any = np.uint8) -> None:
        """A pair of QuantizeLinear and DequantizeLinear."""
        parts = self.weight(f"{name}_scale", 0.05), self.weight(f"{name}_zero", 128, dtype)
        self.add("QuantizeLinear", f"{name}_q", *parts)
        self.add("DequantizeLinear", f"{name}_dq", *parts)

    def conv(self, name: str, out_channels: int, in_channels: int, int8: bool = False) -> None:
        values = self.rng.normal(0, 0.1, (out_channels, in_channels, 3, 3))
        weight = f"{name}.weight"
        if int8:
            stored = self.weight(f"{weight}_quantized", np.clip(values / 0.005, -127, 127).round(), np.int8)
            parts = self.weight(f"{weight}_scale", 0.005), self.weight(f"{weight}_zero", 0, np.int8)
            self.nodes.append(helper.make_node("DequantizeLinear", [stored, *parts], [weight], name=f"{weight}_dq"))
        else:
            self.weight(weight, values)
        self.add("Conv", name, weight, pads=[1, 1, 1, 1])

    def save(self, path: Path, channels: int = 16) -> Path:
        shape = [1, channels, 32, 32]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        return path


def found(
    graph: Graph, folder: Path, channels: int = 16, runtime: str = "onnxruntime", **others: Any
) -> dict[str, Finding]:
    """What is found in a graph, executed, by its first words."""
    path = graph.save(folder / "model.onnx", channels)
    inputs = np.random.default_rng(1).standard_normal((1, channels, 32, 32), np.float32)
    measured = profilers.load(runtime).measure(path, runtime, "cpu", 1, inputs, 20, folder)
    return by_words(diagnose(Case(profile=measured, **(ROOMY | {"runtime": runtime} | others))))


def by_words(findings: list[Finding]) -> dict[str, Finding]:
    assert all(one.remedy and one.evidence for one in findings)
    return {one.what: one for one in findings}


def said(findings: dict[str, Finding], words: str) -> Finding:
    matching = [finding for what, finding in findings.items() if words in what]
    assert len(matching) == 1, (words, list(findings))
    return matching[0]


def operator(name: str, kind: str, ms: float, **others: Any) -> Operator:
    return Operator(
        **(
            {"name": name, "path": "", "type": kind, "calls": 1, "total_ms": ms, "precision": "fp32", "provider": "CPU"}
            | others
        )
    )


def case(
    *operators: Operator, quantized: bool = False, convolutions: tuple[Convolution, ...] = (), **others: Any
) -> Case:
    of_file = {key: others.pop(key) for key in ("queries", "dynamic", "normalisations", "overridable") if key in others}
    measured = Measured(
        **(
            {
                "queries": 20,
                "operators": list(operators),
                "stacks": {},
                "convolutions": list(convolutions),
                "quantized": quantized,
            }
            | of_file
        )
    )
    return Case(profile=measured, **(ROOMY | others))


def test_a_healthy_float_graph_has_no_finding(tmp_path: Path) -> None:
    graph = Graph()
    for name in ("first", "second", "third"):
        graph.conv(name, 16, 16)
        graph.add("Relu", f"{name}_relu")
    assert found(graph, tmp_path) == {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_healthy_int8_graph_has_no_finding(tmp_path: Path, runtime: str) -> None:
    """It ends as a classifier does: beside AMX's convolutions, to convert a whole image back takes a fifth of the
    time."""
    graph = Graph()
    graph.quantized("input")
    for name in ("first", "second", "third", "fourth", "fifth", "sixth"):
        graph.conv(name, 64, 16 if name == "first" else 64, int8=True)
        graph.quantized(name)
    graph.add("GlobalAveragePool", "pool")
    graph.quantized("pool")
    assert found(graph, tmp_path, runtime=runtime) == {}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_conversions_at_the_input_and_the_output_are_no_advice(tmp_path: Path, runtime: str) -> None:
    """So small a graph spends most of its time in them, and no form of quantization is without them."""
    graph = Graph()
    graph.quantized("input")
    graph.conv("only", 8, 16, int8=True)
    graph.quantized("only")
    path = graph.save(tmp_path / "model.onnx")
    inputs = np.ones((1, 16, 32, 32), np.float32)
    measured = profilers.load(runtime).measure(path, runtime, "cpu", 1, inputs, 20, tmp_path)
    edges = {one.name for one in measured.operators if one.edge}
    assert edges and not any(one.edge for one in measured.operators if "Conv" in one.type)
    assert edges == {one.name for one in measured.operators if "Conv" not in one.type}
    assert runtime == "openvino" or edges >= {"input_q", "only_dq"}, "OpenVINO counts nothing below a microsecond"
    assert "conversions and reorders" not in by_words(diagnose(Case(profile=measured, **ROOMY)))


def test_a_pair_around_an_operator_without_an_int8_form_is_named_as_not_fused(tmp_path: Path) -> None:
    graph = Graph()
    graph.quantized("input")
    graph.conv("good", 16, 16, int8=True)
    graph.quantized("good")
    graph.add("Erf", "odd_one")
    graph.quantized("odd_one")
    graph.conv("last", 16, 16, int8=True)
    graph.quantized("last")
    finding = said(found(graph, tmp_path), "pairs that were not fused")
    assert finding.nodes == ("odd_one",)
    assert "Erf" in finding.evidence
    assert "quantize" in finding.remedy


def test_a_convolution_that_was_not_quantized_is_named_as_left_in_float(tmp_path: Path) -> None:
    graph = Graph()
    graph.quantized("input")
    graph.conv("good", 16, 16, int8=True)
    graph.quantized("good")
    graph.conv("forgotten", 32, 16)
    graph.add("Relu", "relu")
    finding = said(found(graph, tmp_path), "left in floating point")
    # the relu is fused with it
    assert any("relu" in node or "forgotten" in node for node in finding.nodes)
    assert "Conv (fp32)" in finding.evidence
    assert finding.severity == "high"


def test_a_model_whose_pairs_all_stay_is_fake_quantization(tmp_path: Path) -> None:
    graph = Graph()
    # no convolution of ONNX Runtime takes 16-bit activations
    graph.quantized("input", np.uint16)
    for name in ("first", "second"):
        graph.conv(name, 16, 16, int8=True)
        graph.quantized(name, np.uint16)
    findings = found(graph, tmp_path)
    finding = said(findings, "fake quantization: no Q/DQ pair was fused")
    assert finding.severity == "high"
    assert {"first", "second"} <= set(finding.nodes)
    assert not any("were not fused" in what or "left in" in what for what in findings), "one cause, one finding"


def test_a_fake_quantize_module_of_pytorch_is_fake_quantization(tmp_path: Path) -> None:
    import torch
    from torch.ao.quantization import FakeQuantize

    class Simulated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fake = torch.nn.Conv2d(3, 8, 3), FakeQuantize()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.fake(x))

    model, inputs = Simulated().eval(), np.ones((1, 3, 32, 32), np.float32)
    model(torch.from_numpy(inputs))
    torch.jit.save(torch.jit.trace(model, torch.from_numpy(inputs)), tmp_path / "model.ts")
    measured = profilers.load("torchscript").measure(
        tmp_path / "model.ts", "torchscript", "cpu", 1, inputs, 20, tmp_path
    )
    finding = said(by_words(diagnose(Case(profile=measured, **ROOMY))), "simulated in floating point")
    assert any("fake_quant" in node for node in finding.nodes)
    assert "never time it as int8" in finding.remedy


def test_conversions_and_layout_changes_are_told_with_their_share(tmp_path: Path) -> None:
    graph = Graph()
    flat, image = graph.weight("flat", [1, 16384], np.int64), graph.weight("image", [1, 16, 32, 32], np.int64)
    for number in range(6):
        graph.add("Transpose", f"there_{number}", perm=[0, 2, 3, 1])
        graph.add("Reshape", f"flat_{number}", flat)
        graph.add("Relu", f"relu_{number}")
        graph.add("Reshape", f"image_{number}", image)
    finding = said(found(graph, tmp_path), "conversions and reorders")
    assert "layout changes" in finding.evidence
    assert "copies" not in finding.evidence
    assert {f"there_{number}" for number in range(6)} <= set(finding.nodes)


def test_convolutions_with_odd_channels_are_named_with_their_channels(tmp_path: Path) -> None:
    graph = Graph()
    graph.conv("stem", 16, 3)
    graph.conv("narrow", 12, 16)
    graph.conv("wide", 16, 12)
    finding = said(found(graph, tmp_path, channels=3), "no multiple of 8")
    assert finding.nodes == ("narrow (16→12)", "wide (12→16)"), "three channels of an image are nobody's mistake"
    assert "2 of 3 convolutions" in finding.evidence
    assert "round_to=8" in finding.remedy


def test_int8_without_its_instructions_is_told_on_a_cpu_alone() -> None:
    conv = operator("conv", "QLinearConv", 1, precision="int8")
    plain = case(conv, quantized=True, cpu_features=("avx2",))
    assert "avx2" in said(by_words(diagnose(plain)), "without VNNI or AMX").evidence
    for others in (
        {"cpu_features": ("avx2", "avx_vnni")},
        {"cpu_features": ("amx_int8",)},
        {"cpu_features": ("asimddp",)},
        {"cpu_features": ("avx2",), "device": "cuda:0"},
    ):
        assert diagnose(case(conv, quantized=True, **others)) == []


def test_a_gpu_that_waits_for_the_host_is_told() -> None:
    conv = operator("conv", "Conv", 1)
    finding = said(by_words(diagnose(case(conv, device="cuda:0", split=(0.1, 2.5, 1.25, 0.1)))), "enqueue-bound")
    assert "2.5 ms" in finding.evidence
    assert "1.25 ms" in finding.evidence
    assert "CUDA graph" in finding.remedy
    assert diagnose(case(conv, device="cuda:0", split=(0.1, 1.0, 1.25, 0.1))) == []


def test_idle_cores_are_told() -> None:
    conv = operator("conv", "Conv", 1)
    finding = said(by_words(diagnose(case(conv, threads=1, cores=4))), "fewer threads")
    assert finding.evidence.startswith("1 of 4 cores")
    assert "--threads 4" in finding.remedy
    assert diagnose(case(conv, threads=4, cores=4)) == []


def test_what_takes_no_time_is_not_told() -> None:
    int8 = [operator(f"conv{n}", "QLinearConv", 10, precision="int8") for n in range(3)]
    pool = operator("pool", "ReduceMean", 0.2, unfused=True)
    edge = operator("input_q", "QuantizeLinear", 0.3)
    assert diagnose(case(*int8, pool, edge, quantized=True)) == []


def test_conversions_at_the_edges_alone_are_no_mistake_until_they_take_a_fifth() -> None:
    conv, edges = operator("conv", "Conv", 85), [operator(f"reorder{n}", "Reorder", 5) for n in range(3)]
    assert diagnose(case(conv, *edges)) == []
    more = [operator(f"inner{n}", "Reorder", 1) for n in range(2)]
    assert said(by_words(diagnose(case(conv, *edges, *more))), "reorders").severity == "medium"
    assert said(by_words(diagnose(case(conv, operator("all", "Transpose", 30)))), "reorders").severity == "high"


def test_the_worst_comes_first() -> None:
    odd = Convolution(name="conv", path="conv", in_channels=3, out_channels=10)
    findings = diagnose(case(operator("conv", "Conv", 80, path="conv"), convolutions=(odd,), threads=15, cores=16))
    assert [one.severity for one in findings] == ["high", "medium"]
    assert "no multiple" in findings[0].what
    assert "100% of the time" in findings[0].evidence
