"""Change the two ends of a given classifier's graph: from `input` to what it takes, from its scores to `logits`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.forms.freebatch import NAME
from tasks.forms.onnxfile import image_input
from tasks.forms.onnxgraph import (
    STANDARD,
    add_constant,
    final_activation,
    redirect,
    remove_unused,
    rename,
    unused_name,
    users_of,
)
from tasks.forms.original import GREY

if TYPE_CHECKING:
    import onnx

    from tasks.forms.original import Source

INPUT = "input"
OUTPUT = "logits"
LEAST_PROBABILITY = 1e-30
"""Probabilities below are taken as this one, because zero has no logarithm."""


class _Chain:
    """New nodes of a graph, each of which takes what the one before makes."""

    def __init__(self, graph: onnx.GraphProto, first: str) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.last = first

    def add(self, kind: str, *constants: np.ndarray, **attributes: Any) -> None:
        """Add a node with constants as its further inputs."""
        from onnx import helper

        label = f"burnish_{kind.lower()}"
        names = [add_constant(self.graph, f"{label}_constant", values) for values in constants]
        output = unused_name(self.graph, f"{label}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, [self.last, *names], [output], name=output, **attributes))
        self.last = output


def change_end(model: onnx.ModelProto, source: Source) -> tuple[str, list[str]]:
    """Make the scores of the taken output the only output, as `logits`.

    Returns
    -------
    The activation that was taken off (Softmax or Sigmoid; empty: none), and a note per change.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    notes = []
    if len(graph.output) > 1:
        notes.append(f"of its {len(graph.output)} outputs, {source.output} alone is kept")
    activation, tensor = _without_activation(graph, source.output)
    if activation:
        notes.append(f"its last {activation} is left out, so that its output is the logits")
    chain = _Chain(graph, tensor)
    if source.raw_scores.dtype != np.float32:
        chain.add("Cast", to=TensorProto.FLOAT)
        notes.append(f"its output of type {source.raw_scores.dtype} is converted to float32")
    if source.raw_scores.ndim != 2:
        chain.add("Flatten", axis=1)
        notes.append("its output has the axes batch and classes alone")
    if source.columns is not None:
        chain.add("Gather", np.array(source.columns, np.int64), axis=1)
        notes.append("its scores are in the order of the images' classes")
    if not activation and _are_probabilities(source.raw_scores):
        activation = "Softmax"
        chain.add("Max", np.array(LEAST_PROBABILITY, np.float32))
        chain.add("Log")
        notes.append("its output is the logarithm of its probabilities")
    if source.output != OUTPUT:
        notes.append(f"its output {source.output} is called {OUTPUT}")
    graph.node.extend(chain.nodes)
    del graph.output[:]
    rename(graph, chain.last, OUTPUT)
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [NAME, len(source.data.classes)]))
    if notes:
        remove_unused(graph)
    return activation, notes


def _without_activation(graph: onnx.GraphProto, output: str) -> tuple[str, str]:
    """Leave out the activation that makes an output; return its kind, and the tensor that is the output without it."""
    activation = final_activation(graph, output)
    if activation is None:
        return "", output
    if activation.probabilities == output:
        return activation.kind, activation.logits
    redirect(graph, activation.probabilities, activation.logits)
    return activation.kind, output


def _are_probabilities(scores: np.ndarray) -> bool:
    """Return whether the scores of each image are positive and sum to one."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    return bool(rows.shape[1] > 1 and (rows >= 0).all() and (abs(rows.sum(1) - 1) < 1e-3).all())


def change_start(model: onnx.ModelProto, source: Source) -> list[str]:
    """Make `input`, as burnish prepares images, the input of the graph; return a note per change."""
    from onnx import TensorProto, helper

    graph = model.graph
    preparation = source.preparation
    given = image_input(model).name
    tensor, layout, dtype = _past_conversions(graph, given, preparation.layout, source.graph.dtype)
    chain = _Chain(graph, INPUT)
    notes = _affine(chain, source)
    if preparation.order == "bgr":
        if not chain.nodes and (layout, dtype) == ("nchw", "float32") and _swap_weights(graph, tensor):
            notes.append("the weights of its first convolution take the channels as RGB, not as BGR")
        else:
            chain.add("Gather", np.array([2, 1, 0], np.int64), axis=1)
            notes.append("the channels of its input are taken as RGB, not as BGR")
    if preparation.layout == "nhwc":
        notes.append("its input has the channels before height and width")
    if layout == "nhwc":
        chain.add("Transpose", perm=[0, 2, 3, 1])
    if source.graph.dtype != "float32":
        notes.append(f"its input of type {source.graph.dtype} is float32")
    if dtype != "float32":
        if not dtype.startswith("float"):
            chain.add("Round")
        chain.add("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    if given != INPUT:
        notes.append(f"its input {given} is called {INPUT}")
    if not notes:
        return notes
    _connect(graph, chain, tensor)
    size = source.data.image_size
    shape = [NAME, source.data.channels, size, size]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    return notes


def _past_conversions(graph: onnx.GraphProto, tensor: str, layout: str, dtype: str) -> tuple[str, str, str]:
    """Remove the nodes at the input that only convert it to float32 or to channels first.

    Returns
    -------
    The tensor that the other nodes take, its layout and its type.
    """
    from onnx import TensorProto, helper

    while True:
        users = users_of(graph, tensor)
        if len(users) != 1 or users[0] not in graph.node or users[0].domain not in STANDARD:
            return tensor, layout, dtype
        node = users[0]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Transpose" and layout == "nhwc" and list(attributes["perm"]) == [0, 3, 1, 2]:
            layout = "nchw"
        elif node.op_type == "Cast" and dtype != "float32" and attributes["to"] == TensorProto.FLOAT:
            dtype = "float32"
        else:
            return tensor, layout, dtype
        tensor = node.output[0]
        graph.node.remove(node)


def _affine(chain: _Chain, source: Source) -> list[str]:
    """Turn normalised images into the channels that the graph takes, normalised as it takes them, in RGB order.

    An image x is normalised as (x - mean) / std, with the images' mean and std in one case and the graph's in the
    other; so one is a multiple of the other plus a constant.
    """
    channels = 1 if source.preparation.order == "grey" else 3
    images = source.data.channels
    mean, std = (np.array(values * (images // len(values))) for values in (source.data.mean, source.data.std))
    own_mean, own_std = (_per_channel(values, channels) for values in (source.preparation.mean, source.preparation.std))
    mixing = np.eye(channels)
    if (images, channels) == (3, 1):
        mixing = np.array([GREY])
    elif (images, channels) == (1, 3):
        mixing = np.ones((3, 1))
    factors = mixing * std / own_std[:, None]
    constants = (mixing @ mean - own_mean) / own_std
    if images != channels:
        kernel = factors[:, :, None, None].astype(np.float32)
        chain.add("Conv", kernel, constants.astype(np.float32))
        return [f"images of {images} channels are turned into the {channels} that it takes"]
    shape = (1, channels, 1, 1)
    scale = np.diag(factors)
    if not np.allclose(scale, 1, rtol=0, atol=1e-6):
        chain.add("Mul", scale.reshape(shape).astype(np.float32))
    if not np.allclose(constants, 0, rtol=0, atol=1e-6):
        chain.add("Add", constants.reshape(shape).astype(np.float32))
    return ["images are normalised by the mean and standard deviation of the data"] if chain.nodes else []


def _per_channel(values: tuple[float, ...], channels: int) -> np.ndarray:
    """Return one value per channel. A grey model's three values are those of the same grey in three channels."""
    if len(values) == channels:
        return np.array(values)
    if len(set(values)) > 1:
        raise ValueError(f"its preparation has {len(values)} means or standard deviations for {channels} channels")
    return np.full(channels, values[0])


def _swap_weights(graph: onnx.GraphProto, tensor: str) -> bool:
    """Reverse the input channels of the weights of the convolutions that take a tensor; return whether that suffices.

    It does where convolutions alone take it, whose weights are in the file and used nowhere else.
    """
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.initializer}
    # The shape of the images is the same whatever the order of their channels.
    users = [node for node in users_of(graph, tensor) if node.op_type != "Shape"]
    names = [node.input[1] for node in users if node.op_type == "Conv" and node.domain in STANDARD]
    if not users or len(names) != len(users) or len(set(names)) != len(names):
        return False
    if not all(name in weights and weights[name].dims[1] == 3 and len(users_of(graph, name)) == 1 for name in names):
        return False
    for name in names:
        values = numpy_helper.to_array(weights[name])[:, ::-1]
        weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return True


def _connect(graph: onnx.GraphProto, chain: _Chain, tensor: str) -> None:
    """Lead `input` through new nodes to a tensor of the graph, which takes it; the graph has no input afterwards."""
    del graph.input[:]
    if not chain.nodes:
        rename(graph, tensor, INPUT)
        return
    if any(INPUT in (*node.input, *node.output) for node in graph.node):
        free = unused_name(graph, f"{INPUT}_of_file")
        rename(graph, INPUT, free)
        tensor = free if tensor == INPUT else tensor
    redirect(graph, tensor, chain.last)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*chain.nodes, *nodes])
