"""ONNX Runtime: its session profile, and the optimized graph that it really runs.

The profile has the host's time of each operator. On CUDA that is the time to enqueue the operator, not to compute it,
so the shares are about the host. Which of the two a query waits for, the benchmark's split tells.
Source: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.machine.space import watched
from tasks.profilers import WARMUP, Measured, Operator, Request, _edges, _onnx
from tasks.profilers._common import calm, stacks_of
from tasks.runtimes import _onnxruntime
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    import onnx

RUNTIMES = ("onnxruntime",)
TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8", "double": "fp64"}


def measure(request: Request) -> Measured:
    """Profile an ONNX file on ONNX Runtime's CPU or CUDA provider."""
    file = model_file(request.path)
    folder = request.folder
    source = _onnx.read(file)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, watched(folder):
        events = _record(file, source, request, Path(scratch))
        optimized = _onnx.read(Path(scratch) / "optimized.onnx")
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events}))
    runs = [event for event in events if event["name"] == "model_run"]
    calm_runs = [runs[number] for number in calm([run["dur"] for run in runs])]
    spans = [(run["ts"], run["ts"] + run["dur"]) for run in calm_runs]
    events = [event for event in events if any(start <= event["ts"] <= end for start, end in spans)]
    modules = _onnx.Modules(source)
    operators = _operators(events, modules, optimized)
    edges = _edges.of_onnx(optimized, {node.name for node in source.graph.node})
    operators = [replace(operator, edge=operator.name in edges) for operator in operators]
    constant = _onnx.constant(optimized)
    # Nodes that depend on weights alone run before all others. They come last, so that stacks begin with the input.
    operators.sort(key=lambda operator: operator.name in constant)
    return Measured(
        queries=len(calm_runs),
        operators=operators,
        stacks=stacks_of(operators, len(calm_runs)),
        quantized=_onnx.is_quantized(source),
        convolutions=_onnx.convolutions(source, modules),
        dynamic=_onnx.is_dynamic(source),
        normalisations=_normalisations(operators, _onnx.unfolded(source)),
        overridable=_onnx.overridable(source),
    )


def _normalisations(operators: list[Operator], reasons: dict[str, str]) -> dict[str, str]:
    """Return, by the name of each executed BatchNormalization, why it was not folded. `reasons` are those of the file.

    Where ONNX Runtime lays out convolutions in blocks, it turns such a node into a convolution with one weight per
    channel.
    """
    unfolded = {}
    for operator in operators:
        name = operator.name.removesuffix("_bn_nchwc")
        if operator.type == "BatchNormalization" or (name != operator.name and name in reasons):
            unfolded[operator.name] = reasons.get(name, "ONNX Runtime did not fold it")
    return unfolded


def _record(file: Path, model: onnx.ModelProto, request: Request, scratch: Path) -> list[dict[str, Any]]:
    """Run queries under the profiler, and return the events of the recorded ones.

    The optimized graph is written into the folder `scratch`.
    """
    import onnxruntime

    _onnxruntime.load_library(request.device)
    # Weights are written into a file of their own, so that a graph of more than 2 GB can be written. The weights of the
    # model's file are read from its folder.
    weights = {
        "session.optimized_model_external_initializers_file_name": "weights",
        "session.model_external_initializers_file_folder_path": str(file.parent.absolute()),
    }
    options = _onnxruntime.options(request.threads, weights)
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    if request.device == "cpu":
        provider, settings = _onnxruntime.CPU, {}
    else:
        provider, settings = "CUDAExecutionProvider", {"device_id": request.device.partition(":")[2], "use_tf32": "0"}
    # The model is opened from memory, because the nodes' names, by which the profile goes, were set when it was read.
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"asked for {provider}, ONNX Runtime gave {session.get_providers()[0]}")
    feed = {session.get_inputs()[0].name: request.inputs}
    for _ in range(WARMUP):
        session.run(None, feed)
    with request.watch:
        for _ in range(request.queries):
            session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    start = sorted(event["ts"] for event in events if event["name"] == "model_run")[WARMUP]
    return [event for event in events if event["ts"] >= start]


def _operators(events: list[dict[str, Any]], modules: _onnx.Modules, optimized: onnx.ModelProto) -> list[Operator]:
    """Return the operators of the profile's events, with all calls of each one summed up."""
    nodes = {node.name: node for node in optimized.graph.node}
    unfused = _onnx.unfused(optimized)
    calls_of: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            calls_of.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    operators = []
    for name, calls in calls_of.items():
        about = calls[0]["args"]
        node = nodes.get(name)
        outputs = list(node.output) if node else []
        inputs = list(node.input) if node else []
        type = about["op_name"]
        heavy = any(word in type for word in ("Conv", "MatMul", "Gemm"))
        operators.append(
            Operator(
                name=name,
                path=modules.path((name, *outputs), inputs, heavy),
                type=type,
                calls=len(calls),
                total_ms=sum(call["dur"] for call in calls) / 1000,
                precision="int8" if _onnx.is_integer(type) else _precision(about),
                provider=about["provider"].removesuffix("ExecutionProvider"),
                unfused=name in unfused,
            )
        )
    return operators


def _precision(about: dict[str, Any]) -> str | None:
    """Return the type of an operator's first input, or of its output where it has no inputs."""
    types = about.get("input_type_shape") or about.get("output_type_shape") or []
    return next((TYPES.get(name) for entry in types[:1] for name in entry), None)
