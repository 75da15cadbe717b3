"""OpenVINO: its performance counters.

A counter is the mean of all queries since the model was compiled, in whole microseconds; it is read before and after
the recorded ones, and what they took computed. As single queries are not told apart, so that a stall of the machine
could not be left out, this is done on three compiled models, and the median of the three is an operator's time.
Counters have no times of day: the trace shows operators one after the other.
Source: https://docs.openvino.ai (ProfilingInfo, `ov::enable_profiling`)
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tasks.profilers import UNWATCHED, WARMUP, Measured, Operator, Watching, _edges, _onnx
from tasks.profilers._common import stacks_of, write_trace
from tasks.runtimes import _openvino
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnx

ROUNDS = 3
RUNTIMES = ("openvino", "openvino_bf16")
TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8", "i8": "int8", "u8": "int8"}


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
    """Profile an ONNX file, or one in OpenVINO's own format, in OpenVINO on the CPU."""
    file = model_file(path)
    core = _openvino.library().Core()
    model = core.read_model(file)
    source = _own(model) if file.suffix == ".xml" else _onnx.read(file)
    model.reshape({model.inputs[0]: list(inputs.shape)})
    precision = "bf16" if runtime.endswith("bf16") else "f32"
    settings = _openvino.configuration(precision, threads, 1) | {"PERF_COUNT": True}
    rounds = []
    for _ in range(ROUNDS):
        compiled = core.compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        for _ in range(WARMUP):
            request.infer([inputs])
        before = _counters(request)
        with watch:
            for _ in range(queries):
                request.infer([inputs])
        after = _counters(request)
        rounds.append({name: _between(before.get(name), info, queries) for name, info in after.items()})
    executed = compiled.get_runtime_model()
    originals = {
        node.get_friendly_name(): str(node.get_rt_info()["originalLayersNames"].value).split(",")
        for node in executed.get_ordered_ops()
        if "originalLayersNames" in node.get_rt_info()
    }
    types = _types(executed, originals, source)
    edges = _edges.of_openvino(executed, types, {node.get_friendly_name() for node in model.get_ordered_ops()})
    modules, operators = _onnx.Modules(source), []
    for name, info in after.items():
        implementation, _, arithmetic = info.exec_type.rpartition("_")
        operators.append(
            Operator(
                name=name,
                path=modules.path([*originals.get(name, ()), name]),
                type=types.get(name, info.node_type),
                calls=queries,
                total_ms=median(times[name] for times in rounds if name in times),
                precision=TYPES.get(arithmetic),
                provider=implementation or info.exec_type,
                edge=name in edges,
            )
        )
    write_trace(folder, operators, queries, "OpenVINO counts durations; operators are shown one after the other")
    return Measured(
        queries=queries,
        operators=operators,
        stacks=stacks_of(operators, queries),
        quantized=_onnx.is_quantized(source),
        convolutions=_onnx.convolutions(source, modules),
        dynamic=_onnx.is_dynamic(source),
    )


def _types(executed: Any, originals: Mapping[str, Sequence[str]], source: onnx.ModelProto) -> dict[str, str]:
    """Return the type of each operator that OpenVINO executes.

    It executes Q/DQ nodes as operators of the type "Subgraph", which says nothing: those go by their type in the file.
    """
    # Its operators go by the name of the file's node or by that of the tensor which the node gives.
    in_file = {name: node.op_type for node in source.graph.node for name in (node.name, *node.output)}
    types = {}
    for node in executed.get_ordered_ops():
        name = node.get_friendly_name()
        types[name] = str(node.get_rt_info()["layerType"].value)
        merged = [in_file[original] for original in originals.get(name, ()) if original in in_file]
        if types[name] == "Subgraph" and merged and set(merged) <= set(_onnx.QUANTIZE):
            types[name] = merged[-1]
    return types


def _own(model: Any) -> onnx.ModelProto:
    """What the rules look at of a model in OpenVINO's own format, as a graph of ONNX nodes: convolutions and Q/DQ.

    It has no modules. FakeQuantize and weights of 8 bits are how that format writes an int8 model.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    nodes, weights = [], []
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        eight_bits = (
            kind == "Constant" and node.get_element_type().get_type_name() in ("i8", "u8") and node.shape != [1]
        )
        if kind == "FakeQuantize" or eight_bits:
            nodes.append(helper.make_node("QuantizeLinear", ["x", "s"], [f"{name}_q"], name=name))
        elif kind in ("Convolution", "GroupConvolution"):
            shape = list(node.input_value(1).get_partial_shape().to_shape())
            groups = shape[0] if kind == "GroupConvolution" else 1
            sizes = [shape[0] * shape[1], *shape[2:]] if kind == "GroupConvolution" else shape
            # One number stands for all: only the shape is looked at.
            weights.append(numpy_helper.from_array(np.broadcast_to(np.int8(0), sizes), f"{name}.w"))
            nodes.append(helper.make_node("Conv", ["x", f"{name}.w"], [name], name=name, group=groups))
    return helper.make_model(helper.make_graph(nodes, "own", [], [], weights))


def _between(before: Any, after: Any, queries: int) -> float:
    """Milliseconds of the recorded queries in all: what the mean of all leaves when that of the first is taken away."""
    earlier = before.real_time.total_seconds() * WARMUP if before else 0.0
    return max(after.real_time.total_seconds() * (WARMUP + queries) - earlier, 0.0) * 1000


def _counters(request: Any) -> dict[str, Any]:
    """Counters of what was executed, by name, in order of execution; fused nodes are listed as not run."""
    return {info.node_name: info for info in request.get_profiling_info() if info.status.name == "EXECUTED"}
