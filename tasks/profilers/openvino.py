"""OpenVINO: its performance counters.

A counter is the mean of all queries since the model was compiled, in whole microseconds. It is read before and after
the recorded queries, and their time is computed from the two. Counters do not tell single queries apart, so a stall of
the machine could not be left out. Therefore this is done on three compiled models, and the median of the three counts.
Counters have no times of day: the trace shows operators one after the other.
Source: https://docs.openvino.ai (ProfilingInfo, `ov::enable_profiling`)
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from tasks.profilers import WARMUP, Measured, Operator, Request, _edges, _onnx
from tasks.profilers._common import stacks_of, write_trace
from tasks.runtimes import _openvino
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

# How many models are compiled and measured.
COMPILATIONS = 3
RUNTIMES = ("openvino", "openvino_bf16")
TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8", "i8": "int8", "u8": "int8"}


def measure(request: Request) -> Measured:
    """Profile an ONNX file, or a file in OpenVINO's own format, in OpenVINO on the CPU."""
    file = model_file(request.path)
    core = _openvino.core()
    model = core.read_model(file)
    source = _as_onnx(model) if file.suffix == ".xml" else _onnx.read(file)
    model.reshape({model.inputs[0]: list(request.inputs.shape)})
    precision = "bf16" if request.runtime.endswith("bf16") else "f32"
    settings = _openvino.configuration(precision, request.threads, 1) | {"PERF_COUNT": True}
    times_of_compilations = []
    for _ in range(COMPILATIONS):
        compiled = core.compile_model(model, "CPU", settings)
        times_ms, counters = _record(compiled, request)
        times_of_compilations.append(times_ms)
    executed = compiled.get_runtime_model()
    originals = _originals(executed)
    types = _types(executed, originals, source)
    edges = _edges.of_openvino(executed, types, {node.get_friendly_name() for node in model.get_ordered_ops()})
    modules = _onnx.Modules(source)
    operators = []
    for name, counter in counters.items():
        implementation, _, arithmetic = counter.exec_type.rpartition("_")
        operators.append(
            Operator(
                name=name,
                path=modules.path([*originals.get(name, ()), name]),
                type=types.get(name, counter.node_type),
                calls=request.queries,
                total_ms=median(times_ms[name] for times_ms in times_of_compilations if name in times_ms),
                precision=TYPES.get(arithmetic),
                provider=implementation or counter.exec_type,
                edge=name in edges,
            )
        )
    note = "OpenVINO counts durations; operators are shown one after the other"
    write_trace(request.folder, operators, request.queries, note)
    return Measured(
        queries=request.queries,
        operators=operators,
        stacks=stacks_of(operators, request.queries),
        quantized=_onnx.is_quantized(source),
        convolutions=_onnx.convolutions(source, modules),
        dynamic=_onnx.is_dynamic(source),
    )


def _record(compiled: Any, request: Request) -> tuple[dict[str, float], dict[str, Any]]:
    """Run queries in a compiled model.

    Returns
    -------
    times_ms : by the name of each operator, its time in all recorded queries, in milliseconds
    counters : by the name of each operator, its counter after them
    """
    inference = compiled.create_infer_request()
    for _ in range(WARMUP):
        inference.infer([request.inputs])
    before = _counters(inference)
    with request.watch:
        for _ in range(request.queries):
            inference.infer([request.inputs])
    after = _counters(inference)
    times_ms = {name: _between_ms(before.get(name), counter, request.queries) for name, counter in after.items()}
    return times_ms, after


def _originals(executed: Any) -> dict[str, list[str]]:
    """Return, by the name of each operator that OpenVINO executes, the names of the model's operators merged in it."""
    return {
        node.get_friendly_name(): str(node.get_rt_info()["originalLayersNames"].value).split(",")
        for node in executed.get_ordered_ops()
        if "originalLayersNames" in node.get_rt_info()
    }


def _types(executed: Any, originals: Mapping[str, Sequence[str]], source: onnx.ModelProto) -> dict[str, str]:
    """Return the type of each operator that OpenVINO executes.

    It executes quantize-dequantize (Q/DQ) nodes as operators of the type "Subgraph", which says nothing. These get
    their type in the file instead.
    """
    # An operator has the name of the file's node, or that of the tensor which the node writes.
    in_file = {name: node.op_type for node in source.graph.node for name in (node.name, *node.output)}
    types = {}
    for node in executed.get_ordered_ops():
        name = node.get_friendly_name()
        types[name] = str(node.get_rt_info()["layerType"].value)
        merged = [in_file[original] for original in originals.get(name, ()) if original in in_file]
        if types[name] == "Subgraph" and merged and set(merged) <= set(_onnx.QUANTIZE):
            types[name] = merged[-1]
    return types


def _as_onnx(model: Any) -> onnx.ModelProto:
    """Return a model in OpenVINO's own format as a graph of ONNX nodes, with no more than the rules of diagnosis need.

    These are its convolutions, and whether it is an int8 model, which that format writes with FakeQuantize and weights
    of 8 bits. The graph has no modules.
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
            # One number stands for all weights, because only their shape is looked at.
            weights.append(numpy_helper.from_array(np.broadcast_to(np.int8(0), sizes), f"{name}.w"))
            nodes.append(helper.make_node("Conv", ["x", f"{name}.w"], [name], name=name, group=groups))
    return helper.make_model(helper.make_graph(nodes, "own", [], [], weights))


def _between_ms(before: Any, after: Any, queries: int) -> float:
    """Return the time of the recorded queries in milliseconds, from an operator's counters before and after them."""
    earlier = before.real_time.total_seconds() * WARMUP if before else 0.0
    return max(after.real_time.total_seconds() * (WARMUP + queries) - earlier, 0.0) * 1000


def _counters(request: Any) -> dict[str, Any]:
    """Return the counters of the executed operators by name, in the order of execution. Fused ones are not executed."""
    return {counter.node_name: counter for counter in request.get_profiling_info() if counter.status.name == "EXECUTED"}
