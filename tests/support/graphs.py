"""ONNX graphs that tests build node by node, and the findings of the diagnosis in their profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks import profilers
from tasks.profilers import Convolution, Measured, Operator
from tasks.profiling.diagnose import Case, Finding, diagnose

if TYPE_CHECKING:
    from pathlib import Path


MACHINE: dict[str, Any] = {
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
        self.rng = np.random.default_rng(0)
        self.last = "input"

    def weight(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> None:
        """Add a node that takes the last node's output. The new node and its output have the same name."""
        self.nodes.append(helper.make_node(kind, [self.last, *inputs], [name], name=name, **attributes))
        self.last = name

    def quantized(self, name: str, dtype: Any = np.uint8) -> None:
        """Add a pair of QuantizeLinear and DequantizeLinear."""
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


def findings_of(
    graph: Graph, folder: Path, channels: int = 16, runtime: str = "onnxruntime", **others: Any
) -> dict[str, Finding]:
    """Profile a graph in a runtime, and return the findings of its diagnosis by their texts."""
    path = graph.save(folder / "model.onnx", channels)
    inputs = np.random.default_rng(1).standard_normal((1, channels, 32, 32), np.float32)
    request = profilers.Request(
        path=path, runtime=runtime, device="cpu", threads=1, inputs=inputs, queries=20, folder=folder
    )
    measured = profilers.load(runtime).measure(request)
    return by_words(diagnose(Case(profile=measured, **(MACHINE | {"runtime": runtime} | others))))


def by_words(findings: list[Finding]) -> dict[str, Finding]:
    """Return the findings by their texts."""
    assert all(finding.remedy and finding.evidence for finding in findings)
    return {finding.what: finding for finding in findings}


def finding_about(findings: dict[str, Finding], words: str) -> Finding:
    """Return the only finding whose text contains these words."""
    matching = [finding for text, finding in findings.items() if words in text]
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
    """Return a case for the diagnosis, with these operators in its profile. `others` are fields of either record."""
    of_profile = {
        key: others.pop(key) for key in ("queries", "dynamic", "normalisations", "overridable") if key in others
    }
    measured = Measured(
        **(
            {
                "queries": 20,
                "operators": list(operators),
                "stacks": {},
                "convolutions": list(convolutions),
                "quantized": quantized,
            }
            | of_profile
        )
    )
    return Case(profile=measured, **(MACHINE | others))
