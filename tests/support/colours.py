"""Classifiers in ONNX as strangers give them, each of which wants its images in another way, and images for them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.support.files import write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "blue": (0.15, 0.15, 0.85),
    "green": (0.15, 0.7, 0.25),
    "yellow": (0.85, 0.8, 0.2),
    "cyan": (0.2, 0.75, 0.85),
    "magenta": (0.8, 0.2, 0.75),
    "white": (0.9, 0.9, 0.9),
    "black": (0.1, 0.1, 0.1),
    "grey": (0.5, 0.5, 0.5),
    "brown": (0.55, 0.35, 0.2),
    "slate": (0.3, 0.35, 0.55),
    "pink": (0.85, 0.6, 0.65),
}
"""Classes, in an order that is not alphabetical, and the mean colour of their images, from 0 to 1."""
SIZE = 16
"""Height and width of the images in pixels."""


def colour_images(path: Path, per_class: int = 40, *, swapped: float = 0.0, seed: int = 0) -> Path:
    """Write a Parquet file of small images of the colours.

    Parameters
    ----------
    swapped
        Share of the images whose red and blue are exchanged.
    """
    dice = np.random.default_rng(seed)
    rows: list[tuple[bytes | None, int | None]] = []
    for label, colour in enumerate(COLOURS.values()):
        for number in range(per_class):
            mean = np.asarray(colour) + dice.normal(0, 0.04, 3)
            pixels = np.clip(mean + dice.normal(0, 0.1, (SIZE, SIZE, 3)), 0, 1)
            if number < swapped * per_class:
                pixels = pixels[..., ::-1]
            file = io.BytesIO()
            Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
            rows.append((file.getvalue(), label))
    order = dice.permutation(len(rows))
    return write_parquet(path, [rows[index] for index in order], list(COLOURS))


def colour_model(path: Path, size: int | None = SIZE, weights: np.ndarray | None = None, **wanted: Any) -> Path:
    """Write a classifier of the colours: the class whose colour is nearest to the image's mean colour.

    Parameters
    ----------
    size
        Height and width that it takes. None: any.
    weights
        Weights in place of those that classify: (3, classes).
    wanted
        How it wants its images; see `wanting`.
    """
    # Pixels from 0 to 1; the nearest colour is that with the largest 2 c·x - |c|².
    colours = np.asarray(list(COLOURS.values()), np.float32)
    constants = {"weights": 2 * colours.T if weights is None else weights, "bias": -(colours**2).sum(1)}
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size or "height", size or "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(COLOURS)])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(wanting(model, **wanted), path)
    return path


def wanting(
    model: onnx.ModelProto,
    *,
    order: str = "rgb",
    layout: str = "nchw",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    own: tuple[float, float] = (0.0, 1.0),
    outputs: Sequence[int] | None = None,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """Return a model that wants its images in another way, and gives the same answers if it gets them.

    Parameters
    ----------
    model
        It takes RGB, channels first.
    order, layout, mean, std
        What it then wants, with mean and std in RGB order, of pixels from 0 to 1.
    own
        Mean and std that it wants before.
    outputs
        For each of the new outputs, the number of the old one.
    """
    graph = model.graph
    source, target = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = ["as before" if name == source else name for name in node.input]
        node.output[:] = ["scores before" if name == target else name for name in node.output]
    scale = np.broadcast_to(np.asarray(std, np.float32), 3) / own[1]
    shift = (np.broadcast_to(np.asarray(mean, np.float32), 3) - own[0]) / own[1]
    reversed_channels = [2, 1, 0] if order == "bgr" else [0, 1, 2]
    picked = list(range(graph.output[0].type.tensor_type.shape.dim[1].dim_value)) if outputs is None else list(outputs)
    constants = {
        "channels": np.array(reversed_channels),
        "scale": scale.reshape(1, 3, 1, 1).astype(np.float32),
        "shift": shift.reshape(1, 3, 1, 1).astype(np.float32),
        "picked": np.array(picked),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    first = [
        helper.make_node("Transpose", [source], ["first"], perm=[0, 3, 1, 2] if layout == "nhwc" else [0, 1, 2, 3]),
        helper.make_node("Gather", ["first", "channels"], ["rgb"], axis=1),
        helper.make_node("Mul", ["rgb", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["as before"]),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    last = helper.make_node("Gather", ["scores before", "picked"], [target], axis=1)
    graph.node.extend([*first, *nodes, last])
    sides = [size.dim_value or size.dim_param for size in graph.input[0].type.tensor_type.shape.dim[2:]]
    shape = ["batch", *sides, 3] if layout == "nhwc" else ["batch", 3, *sides]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(source, TensorProto.FLOAT, shape))
    graph.output[0].CopyFrom(helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", len(picked)]))
    del graph.value_info[:]
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    return model
