"""What an ONNX graph costs: its parameters, the multiply-accumulates of one image, and the precision of its weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tasks.forms.onnxfile import image_input, sizes_of
from tasks.forms.onnxgraph import STANDARD
from tasks.records._base import Precision

if TYPE_CHECKING:
    import onnx

UNCOUNTED = ("Einsum", "ConvTranspose", "LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Attention")
"""Standard operators that multiply in ways that are not counted here: a graph with one has no number."""
INTEGER = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Operators of graphs that were quantized already."""


def parameters(model: onnx.ModelProto) -> int:
    """Return the number of weights: all elements of constants of floats or int8 that have an axis."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8)
    return sum(math.prod(one.dims) for one in model.graph.initializer if one.data_type in kinds and one.dims)


def precision(model: onnx.ModelProto) -> Precision:
    """Return the precision of most weights; int8 where the graph was quantized."""
    from onnx import TensorProto

    if any(node.op_type in INTEGER for node in model.graph.node):
        return "int8"
    elements: dict[int, int] = {}
    for one in model.graph.initializer:
        elements[one.data_type] = elements.get(one.data_type, 0) + math.prod(one.dims)
    halves: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    for kind, name in halves.items():
        if elements.get(kind, 0) > elements.get(TensorProto.FLOAT, 0):
            return name
    return "fp32"


def macs(model: onnx.ModelProto) -> int | None:
    """Return the multiply-accumulates of one image in convolutions and matrix products; None where they are unknown.

    They are counted as PyTorch's counter does it: without biases and element-wise operations. They are unknown where
    the shape of a tensor cannot be inferred, or an operator is of another kind. The graph's batch size is free.
    """
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    image_input(single).type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]
    del single.graph.output[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    except Exception:
        # The library raises what it likes, and has a limit of 2 GB. The number is left out then.
        return None
    shapes = {value.name: sizes_of(value.type.tensor_type) for value in (*inferred.value_info, *inferred.input)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    total = 0
    for node in inferred.node:
        cost = _macs_of(node, shapes)
        if cost is None:
            return None
        total += cost
    return total


def _macs_of(node: onnx.NodeProto, shapes: dict[str, list[int | None] | None]) -> int | None:
    if node.domain not in STANDARD or node.op_type in UNCOUNTED or node.op_type in INTEGER:
        return None
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    first, second = (shapes.get(name) for name in node.input[:2])
    result = shapes.get(node.output[0])
    if not first or not second or not result or None in (*first, *second, *result):
        return None
    outputs = math.prod(size or 0 for size in result)
    if node.op_type == "Conv":
        # A weight's axes after the first are the input channels of its group, and the kernel.
        return outputs * math.prod(size or 0 for size in second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return outputs * int((first[0] if transposed else first[-1]) or 0)
