"""Small ONNX classifiers as users have them: with other inputs and outputs than burnish's own exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tests.support.models import network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLASSES = 5
SIZE = 8


def classifier(
    before: Sequence[onnx.NodeProto] = (),
    after: Sequence[onnx.NodeProto] = (),
    shape: Sequence[Any] = ("n", 3, SIZE, SIZE),
    dtype: int = TensorProto.FLOAT,
    constants: dict[str, Any] | None = None,
    scores: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A network for images of 8×8 pixels and five classes.

    `before` are nodes from its input, `images`, to the tensor `x`, and `after` nodes from its scores, `y`, to `scores`.
    `dtype` and `scores` are the types of the input and of the output. Further tensors of the network: w, c, r, p, m.
    """
    model = network()
    graph = model.graph
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("images" if before else "x", dtype, shape))
    if after:
        graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", scores, None))
        # Without a shape, the output's type would be taken as that of one value.
        graph.output[0].type.tensor_type.ClearField("shape")
    else:
        graph.output[0].type.tensor_type.shape.dim[0].Clear()
        graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    for name, values in (constants or {}).items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node; its inputs are separated by spaces."""
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def saved(model: onnx.ModelProto, folder: Path, **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(folder / "given.onnx"), **how)
    return folder / "given.onnx"


def executed(path: Path, inputs: np.ndarray, output: str | None = None) -> np.ndarray:
    """The output of a file, or of the one in a folder, in ONNX Runtime with nothing of burnish around it."""
    file = next(path.glob("*.onnx")) if path.is_dir() else path
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(output and [output], {session.get_inputs()[0].name: inputs})[0])
