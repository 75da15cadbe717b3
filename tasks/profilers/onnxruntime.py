"""ONNX Runtime: its session profile, and the optimized graph that it really runs.

The profile has the host's time of each operator. On CUDA that is the time to enqueue it, not to compute it (operators
are not waited for), so that shares tell of the host; the benchmark's split tells which of the two a query waits for.
Source: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.machine.space import watched
from tasks.profilers import UNWATCHED, WARMUP, Measured, Operator, Watching, _edges, _onnx
from tasks.profilers._common import calm, stacks_of
from tasks.runtimes import _onnxruntime
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    import numpy as np

RUNTIMES = ("onnxruntime",)
TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8", "double": "fp64"}


def measure(
    path: Path,
    runtime: str,
    device: str,
    threads: int,
    inputs: np.ndarray,
    queries: int,
    folder: Path,
    watch: Watching = UNWATCHED,
) -> Measured:
    """Profile an ONNX file on ONNX Runtime's CPU or CUDA provider."""
    file = model_file(path)
    source = _onnx.read(file)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, watched(folder):
        events = _run(file, source, device, threads, inputs, queries, Path(scratch), watch)
        optimized = _onnx.read(Path(scratch) / "optimized.onnx")
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events}))
    runs = [event for event in events if event["name"] == "model_run"]
    kept = [(runs[i]["ts"], runs[i]["ts"] + runs[i]["dur"]) for i in calm([run["dur"] for run in runs])]
    events = [event for event in events if any(start <= event["ts"] <= end for start, end in kept)]
    modules, left = _onnx.Modules(source), _onnx.unfused(optimized)
    operators = _operators(events, modules, {node.name: node for node in optimized.graph.node}, left)
    edges = _edges.of_onnx(optimized, {node.name for node in source.graph.node})
    operators = [replace(one, edge=one.name in edges) for one in operators]
    constant = _onnx.constant(optimized)
    # they run before all others, whatever they belong to
    operators.sort(key=lambda one: one.name in constant)
    return Measured(
        queries=len(kept),
        operators=operators,
        stacks=stacks_of(operators, len(kept)),
        quantized=_onnx.is_quantized(source),
        convolutions=_onnx.convolutions(source, modules),
        dynamic=_onnx.is_dynamic(source),
        normalisations=_normalisations(operators, _onnx.unfolded(source)),
        overridable=_onnx.overridable(source),
    )


def _normalisations(operators: list[Operator], reasons: dict[str, str]) -> dict[str, str]:
    """Operators that are a BatchNormalization, with the reasons that the file tells.

    Where ONNX Runtime lays out convolutions in blocks, it makes a convolution of one weight per channel of such a node.
    """
    found = {}
    for one in operators:
        name = one.name.removesuffix("_bn_nchwc")
        if one.type == "BatchNormalization" or (name != one.name and name in reasons):
            found[one.name] = reasons.get(name, "ONNX Runtime did not fold it")
    return found


def _run(
    file: Path, model: Any, device: str, threads: int, inputs: np.ndarray, queries: int, scratch: Path, watch: Watching
) -> list[dict[str, Any]]:
    """Events of the profile, those of the recorded queries alone; the optimized graph goes into `scratch`."""
    import onnxruntime

    _onnxruntime.load_library(device)
    # Weights apart, so that a graph of more than 2 GB can be written; and the file's own are beside it.
    weights = {
        "session.optimized_model_external_initializers_file_name": "weights",
        "session.model_external_initializers_file_folder_path": str(file.parent.absolute()),
    }
    options = _onnxruntime.options(threads, weights)
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    asked, settings = _onnxruntime.CPU, {}
    if device != "cpu":
        asked, settings = "CUDAExecutionProvider", {"device_id": device.partition(":")[2], "use_tf32": "0"}
    # As bytes: the names that the profile goes by are given when the graph is read.
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[(asked, settings)])
    if session.get_providers()[0] != asked:
        raise RuntimeError(f"asked for {asked}, ONNX Runtime gave {session.get_providers()[0]}")
    name = session.get_inputs()[0].name
    for _ in range(WARMUP):
        session.run(None, {name: inputs})
    with watch:
        for _ in range(queries):
            session.run(None, {name: inputs})
    events = json.loads(Path(session.end_profiling()).read_text())
    start = sorted(event["ts"] for event in events if event["name"] == "model_run")[WARMUP]
    return [event for event in events if event["ts"] >= start]


def _operators(
    events: list[dict[str, Any]], modules: _onnx.Modules, nodes: dict[str, Any], left: set[str]
) -> list[Operator]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    operators = []
    for name, calls in found.items():
        about, node = calls[0]["args"], nodes.get(name)
        outputs, inputs = (list(node.output), list(node.input)) if node else ([], [])
        kind = about["op_name"]
        heavy = any(word in kind for word in ("Conv", "MatMul", "Gemm"))
        operators.append(
            Operator(
                name=name,
                path=modules.path((name, *outputs), inputs, heavy),
                type=kind,
                calls=len(calls),
                total_ms=sum(call["dur"] for call in calls) / 1000,
                precision="int8" if _onnx.is_integer(kind) else _precision(about),
                provider=about["provider"].removesuffix("ExecutionProvider"),
                unfused=name in left,
            )
        )
    return operators


def _precision(about: dict[str, Any]) -> str | None:
    """By the type of an operator's first input (an operator without inputs: of its output)."""
    given = about.get("input_type_shape") or about.get("output_type_shape") or []
    return next((TYPES.get(name) for entry in given[:1] for name in entry), None)
