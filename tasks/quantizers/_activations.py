"""Shared by the quantizers on ONNX Runtime: what the tensors of a graph hold while it classifies calibration images.

A tensor is reduced to a few numbers inside the session, so that no whole activation leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.machine import cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from onnx import ModelProto, NodeProto, TensorProto

    from tasks.quantizers import Calibration

BATCH = 8
"""Images per query. Activations of eight images at 224×224 are tens of megabytes each in common networks."""


class Reduction(NamedTuple):
    """A reduction of a tensor over some axes, or over all of them."""

    operator: str
    """ReduceMin, ReduceMax or ReduceMean."""
    tensor: str
    axes: tuple[int, ...] = ()
    """The axes over which is reduced. None means all."""

    @property
    def name(self) -> str:
        """Return the name of the result."""
        return ":".join((self.tensor, self.operator, *map(str, self.axes)))


def batches(calibration: Calibration, size: int = BATCH) -> Iterator[np.ndarray]:
    """Yield the calibration images, `size` at a time."""
    for start in range(0, len(calibration), size):
        yield calibration.read(start, min(start + size, len(calibration)))


def reduce(
    model: ModelProto, reductions: Iterable[Reduction], calibration: Calibration
) -> Iterator[tuple[int, dict[Reduction, np.ndarray]]]:
    """Yield, for each batch of the calibration images, its number of images and the reductions of the tensors.

    The graph is changed: it has the reductions as its outputs.
    """
    wanted = list(dict.fromkeys(reductions))
    append(model, wanted)
    session = open_session(model)
    names = [reduction.name for reduction in wanted]
    for images in batches(calibration):
        yield len(images), dict(zip(wanted, session.run(names, {"input": images}), strict=True))


def append(model: ModelProto, reductions: list[Reduction]) -> None:
    """Add reductions to a graph, each behind the node that makes its tensor, so that this need not be kept for long."""
    import onnx

    graph = model.graph
    by_tensor: dict[str, list[NodeProto]] = {}
    for reduction in reductions:
        node, axes = _node(reduction, opset(model))
        graph.initializer.extend(axes)
        by_tensor.setdefault(reduction.tensor, []).append(node)
        graph.output.append(onnx.helper.make_tensor_value_info(reduction.name, onnx.TensorProto.FLOAT, None))
    nodes = [reduced for info in graph.input for reduced in by_tensor.get(info.name, [])]
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += by_tensor.get(name, [])
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _node(reduction: Reduction, version: int) -> tuple[NodeProto, list[TensorProto]]:
    """Return the node of a reduction, and the constant with its axes where this version of ONNX has them as one."""
    import numpy as np
    import onnx

    inputs = [reduction.tensor]
    attributes: dict[str, Any] = {"keepdims": 0}
    constants = []
    if reduction.axes and version < 18:
        attributes["axes"] = reduction.axes
    elif reduction.axes:
        inputs.append(f"{reduction.name}:axes")
        constants.append(onnx.numpy_helper.from_array(np.array(reduction.axes, np.int64), inputs[1]))
    return onnx.helper.make_node(reduction.operator, inputs, [reduction.name], **attributes), constants


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def open_session(model: ModelProto) -> Any:
    """Open a model in ONNX Runtime as it is: a graph that is optimized would compute some tensors not at all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    # By default, reductions are computed at the end, and all activations are kept for them: with EfficientNet-Lite0 and
    # eight images, 980 instead of 230 MB.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
