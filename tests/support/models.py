"""Writes small ONNX models that tests execute, measure and quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def onnx_file(path: Path) -> Path:
    """Write a model of one matrix product, for tests that execute it again and again."""
    weights = numpy_helper.from_array(np.eye(256, dtype=np.float32), "weights")
    shape = ("images", 256)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def network(shape: Any = ("n", 3, 8, 8), dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a model of a convolution, an activation and a matrix product, for images of three channels."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(size).astype(np.float32), name)
        for name, size in (("w", (4, 3, 3, 3)), ("m", (4, 5)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["p", "m"], ["y"]),
    ]
    batch = shape[0] if shape else None
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, [batch, 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
