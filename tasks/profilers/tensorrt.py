"""TensorRT and TensorRT for RTX: layer times by IProfiler, types and shapes of layers by the engine inspector.

Layers are timed with CUDA events one after the other, so that their sum is more than a query's latency; an engine in a
CUDA graph has no layer times. An engine built without detailed profiling tells names of layers alone.
Source: https://docs.nvidia.com/deeplearning/tensorrt (IProfiler, EngineInspector)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.profilers import UNWATCHED, WARMUP, Measured, Operator, Watching
from tasks.profilers._common import stacks_of, write_trace
from tasks.runtimes import _tensorrt

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

RUNTIMES = ("tensorrt",)
TYPES = {"Int8": "int8", "Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}


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
    """Profile a serialized engine on a GPU."""
    import torch

    _tensorrt.load_library(device)
    engine = _tensorrt.Engine(path, device, len(inputs))
    context, library = engine.context(), engine.library

    class Profiler(library.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    bound = _tensorrt.Bound(engine, context, torch.from_numpy(inputs).to(device))
    stream, profiler = torch.cuda.Stream(), Profiler()
    # the inputs are there
    torch.cuda.synchronize()
    for _ in range(WARMUP):
        bound.enqueue(stream)
        stream.synchronize()
    context.profiler = profiler
    with watch:
        for _ in range(queries):
            bound.enqueue(stream)
            stream.synchronize()
    told = engine.engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    layers = {one["Name"]: one for one in json.loads(told).get("Layers", []) if isinstance(one, dict)}
    operators = [_operator(layer, ms, layers.get(layer, {})) for layer, ms in profiler.times.items()]
    write_trace(folder, operators, queries, "TensorRT reports durations; layers are shown one after the other")
    return Measured(
        queries=queries,
        operators=operators,
        stacks=stacks_of(operators, queries),
        convolutions=[],
        quantized=any(one.precision == "int8" for one in operators),
    )


def _operator(name: str, times: list[float], about: dict[str, Any]) -> Operator:
    """Layers keep the names of the ONNX nodes that they were fused of: "/layer1/0/conv1/Conv + /layer1/0/relu/Relu"."""
    kind = about.get("ParameterType") or about.get("LayerType") or ("Reformat" if "Reformat" in name else "layer")
    formats = [
        # one field until TensorRT 10, two in 11
        f"{entry.get('Format/Datatype', '')} {entry.get('Datatype', '')}"
        for entry in about.get("Inputs", [])
        if isinstance(entry, dict)
    ]
    precision = next((TYPES[word] for text in formats for word in reversed(text.split()) if word in TYPES), None)
    path = "/".join(name.partition(" + ")[0].strip("/").split("/")[:-1]) if name.startswith("/") else ""
    return Operator(
        name=name,
        path=path,
        type=kind,
        calls=len(times),
        total_ms=sum(times),
        precision=precision,
        provider=str(about.get("TacticName", "TensorRT")),
    )
