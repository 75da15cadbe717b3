"""Put the preparation of images into an ONNX graph: it then takes decoded images and gives probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

INPUT = "image"
"""Name of the folded graph's input: uint8, (batch, height, width, channels)."""
OUTPUT = "probabilities"
"""Name of its output: float32, (batch, classes)."""
PREFIX = "burnish/folded/"
"""Begins the names of all values and constants that are added, so that they are no names of the graph's."""


def fold(file: Path, target: Path, preparation: dict[str, Any]) -> None:
    """Write the folded form of an ONNX file beside it.

    The arithmetic is that of `normalise` in tasks/datasets/_pixels.py, operation by operation, so that the model gets
    the same numbers. Axes are transposed first, while a value still is one byte.

    Parameters
    ----------
    file
        A file with one float input, (batch, channels, height, width), and logits as its first output.
    target
        The file to write, in the same folder, so that both find the same external data.
    preparation
        What preparation.json holds.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    (source,) = [value for value in graph.input if value.name not in constants]
    nodes = [*_head(graph, source, preparation), *graph.node, *_tail(graph.output[0])]
    others = [value for value in graph.input if value.name in constants]
    image = onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, _shape(source, preparation))
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value or len(preparation["classes"])
    output = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [image_batch(source), classes])
    graph.value_info.append(source)
    for field, values in (("node", nodes), ("input", [image, *others]), ("output", [output])):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    onnx.save(model, str(target))


def image_batch(source: onnx.ValueInfoProto) -> int | str:
    """Return the size of an input's first axis: a number where it is fixed, else a name."""
    size = source.type.tensor_type.shape.dim[0]
    return size.dim_value if size.HasField("dim_value") else size.dim_param or "batch"


def _shape(source: onnx.ValueInfoProto, preparation: dict[str, Any]) -> list[int | str]:
    side = preparation["image_size"]
    return [image_batch(source), side, side, preparation["channels"]]


def _head(graph: onnx.GraphProto, source: onnx.ValueInfoProto, preparation: dict[str, Any]) -> list[onnx.NodeProto]:
    """Return the nodes from the image to the model's input, and add their constants to the graph."""
    from onnx import TensorProto, helper, numpy_helper

    shape = (preparation["channels"], 1, 1)
    constants = {
        "scale": np.array(255, np.float32),
        "mean": np.asarray(preparation["mean"], np.float32).reshape(shape),
        "std": np.asarray(preparation["std"], np.float32).reshape(shape),
    }
    graph.initializer.extend(numpy_helper.from_array(array, PREFIX + name) for name, array in constants.items())
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Div", ["scale"], {}),
        ("Sub", ["mean"], {}),
        ("Div", ["std"], {}),
    ]
    if source.type.tensor_type.elem_type != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": source.type.tensor_type.elem_type}))
    nodes = []
    taken = INPUT
    for number, (operator, names, attributes) in enumerate(steps):
        result = source.name if number == len(steps) - 1 else f"{PREFIX}{number}"
        inputs = [taken, *(PREFIX + name for name in names)]
        nodes.append(helper.make_node(operator, inputs, [result], f"{PREFIX}{operator}_{number}", **attributes))
        taken = result
    return nodes


def _tail(logits: onnx.ValueInfoProto) -> list[onnx.NodeProto]:
    """Return the nodes from the logits to the probabilities."""
    from onnx import TensorProto, helper

    cast = helper.make_node("Cast", [logits.name], [f"{PREFIX}logits"], f"{PREFIX}logits", to=TensorProto.FLOAT)
    softmax = helper.make_node("Softmax", [f"{PREFIX}logits"], [OUTPUT], f"{PREFIX}softmax", axis=1)
    return [cast, softmax]
