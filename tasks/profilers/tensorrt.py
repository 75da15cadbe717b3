"""TensorRT and TensorRT for RTX: IProfiler tells the times of layers, the engine inspector their types and shapes.

Layers are timed one after the other with CUDA events, so that their sum is more than the latency of a query. An engine
in a CUDA graph has no times of layers. An engine that was built without detailed profiling tells nothing of a layer but
its name.
Source: https://docs.nvidia.com/deeplearning/tensorrt (IProfiler, EngineInspector)
"""

from __future__ import annotations

import json
from typing import Any

from tasks.profilers import WARMUP, Measured, Operator, Request
from tasks.profilers._common import stacks_of, write_trace
from tasks.runtimes import _tensorrt

RUNTIMES = ("tensorrt",)
TYPES = {"Int8": "int8", "Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}


def measure(request: Request) -> Measured:
    """Profile a serialized engine on a GPU."""
    import torch

    _tensorrt.load_library(request.device)
    engine = _tensorrt.Engine(request.path, request.device, len(request.inputs))
    context = engine.context()
    bound = _tensorrt.Bound(engine, context, torch.from_numpy(request.inputs).to(request.device))
    stream = torch.cuda.Stream()
    # The inputs were copied in another stream.
    torch.cuda.synchronize()
    for _ in range(WARMUP):
        bound.enqueue(stream)
        stream.synchronize()
    profiler = _profiler(engine.library)
    context.profiler = profiler
    with request.watch:
        for _ in range(request.queries):
            bound.enqueue(stream)
            stream.synchronize()
    inspector = engine.engine.create_engine_inspector()
    information = json.loads(inspector.get_engine_information(engine.library.LayerInformationFormat.JSON))
    layers = {layer["Name"]: layer for layer in information.get("Layers", []) if isinstance(layer, dict)}
    operators = [_operator(name, times_ms, layers.get(name, {})) for name, times_ms in profiler.times_ms.items()]
    note = "TensorRT reports durations; layers are shown one after the other"
    write_trace(request.folder, operators, request.queries, note)
    return Measured(
        queries=request.queries,
        operators=operators,
        stacks=stacks_of(operators, request.queries),
        convolutions=[],
        quantized=any(operator.precision == "int8" for operator in operators),
    )


def _profiler(library: Any) -> Any:
    """Return a profiler for an execution context. It keeps the times of layers in its attribute `times_ms`."""

    class Profiler(library.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            # By the name of each layer: its time in each query.
            self.times_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms.setdefault(layer_name, []).append(ms)

    return Profiler()


def _operator(name: str, times_ms: list[float], about: dict[str, Any]) -> Operator:
    """Return a layer as an operator. `about` is what the engine inspector tells of it.

    The name of a layer has the names of the ONNX nodes that it was fused from, as in
    "/layer1/0/conv1/Conv + /layer1/0/relu/Relu".
    """
    type = about.get("ParameterType") or about.get("LayerType") or ("Reformat" if "Reformat" in name else "layer")
    formats = [
        # Format and type are one field until TensorRT 10, and two in 11.
        f"{entry.get('Format/Datatype', '')} {entry.get('Datatype', '')}"
        for entry in about.get("Inputs", [])
        if isinstance(entry, dict)
    ]
    precision = next((TYPES[word] for text in formats for word in reversed(text.split()) if word in TYPES), None)
    path = "/".join(name.partition(" + ")[0].strip("/").split("/")[:-1]) if name.startswith("/") else ""
    return Operator(
        name=name,
        path=path,
        type=type,
        calls=len(times_ms),
        total_ms=sum(times_ms),
        precision=precision,
        provider=str(about.get("TacticName", "TensorRT")),
    )
