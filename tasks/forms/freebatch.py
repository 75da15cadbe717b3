"""Make the batch size of an ONNX graph free, where its exporter wrote it into constants.

A graph that was exported with a fixed batch size has it in its input's shape, and in constants: in the shapes of
Reshape and Expand, in the sizes of Resize, and in constants that are joined with the images' values (a class token).
The shapes of all tensors are followed through the graph twice, with the fixed batch size and with a free one, so that
the axis that holds the batch is known wherever such a constant is used. Whether the result is right is for the caller
to check, by executing it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tasks.forms.onnxfile import image_input, sizes_of
from tasks.forms.onnxgraph import STANDARD, add_constant, constants_of

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Sizes = list[int | None] | None
"""Sizes of a tensor, None for one that is open. None altogether where they are unknown."""
SMALL = 64
"""Constants of more elements hold no shape."""
NAME = "batch"
"""Name of the free size."""


def free_batch(model: onnx.ModelProto, fixed: int) -> None:
    """Make the batch size free in a graph that was exported with batches of `fixed` images. Its nodes are in order."""
    graph = model.graph
    shapes = _Shapes(model, fixed)
    del graph.value_info[:]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        new_nodes = _freed(node, shapes)
        nodes += new_nodes
        shapes.follow(node, new_nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (image_input(model), *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and tensor.shape.dim:
            tensor.shape.dim[0].dim_param = NAME


def fold_shapes(file: Path, folder: Path) -> Path:
    """Write a file with what can be computed from its fixed shapes as constants, and return its path.

    ONNX Runtime does it with its basic optimizations, which every session of it begins with.
    """
    import onnxruntime

    path = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return path


class _Shapes:
    """The types of the tensors that have been reached: with the fixed batch size, and with a free one."""

    def __init__(self, model: onnx.ModelProto, fixed: int) -> None:
        from onnx import helper

        self.model = model
        self.constants = constants_of(model.graph)
        """Tensors whose values are in the file, by name. Of those that were changed, the new values."""
        weights = {
            name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            for name, tensor in self.constants.items()
        }
        self.images = image_input(model)
        self.fixed: dict[str, onnx.TypeProto] = {**weights, self.images.name: self._type_of_images(fixed)}
        self.free: dict[str, onnx.TypeProto] = {**weights, self.images.name: self._type_of_images(None)}
        self.batch = fixed
        """The fixed batch size."""
        self.outer: dict[str, int] = {}
        """Name of a tensor whose batch was joined with an axis in front of it -> how many elements of that axis."""

    def _type_of_images(self, batch: int | None) -> onnx.TypeProto:
        """Return the input's type with this batch size, or with a free one."""
        import onnx

        images = onnx.TypeProto()
        images.CopyFrom(self.images.type)
        first = images.tensor_type.shape.dim[0]
        first.Clear()
        if batch is not None:
            first.dim_value = batch
        return images

    def add_constant(self, name: str, values: list[int]) -> str:
        """Add a constant of whole numbers to the graph, and return the name that it got."""
        from onnx import helper

        name = add_constant(self.model.graph, name, np.array(values, np.int64))
        self.constants[name] = self.model.graph.initializer[-1]
        self.free[name] = helper.make_tensor_type_proto(helper.TensorProto.INT64, [len(values)])
        self.fixed[name] = self.free[name]
        return name

    def follow(self, node: onnx.NodeProto, new_nodes: list[onnx.NodeProto]) -> None:
        """Infer the types of a node's outputs, and those of the nodes that have taken its place."""
        for new_node in new_nodes:
            self.free |= self._inferred(new_node, self.free)
            joined = [self.outer[name] for name in new_node.input if name in self.outer]
            if joined and new_node.op_type != "Reshape":
                self.outer |= dict.fromkeys(new_node.output, joined[0])
        self.fixed |= self._inferred(node, self.fixed)

    def _inferred(self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto]) -> dict[str, onnx.TypeProto]:
        import onnx

        if node.op_type == "Constant" and node.domain in STANDARD:
            return {}
        version = next((one.version for one in self.model.opset_import if one.domain == node.domain), 1)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            return onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: types[name] for name in node.input if name},
                {name: self._constant(name) for name in node.input if name in self.constants},
                opset_imports=list(self.model.opset_import),
                ir_version=self.model.ir_version,
            )
        except Exception:
            # An operator of another library has no schema, and an input whose type is unknown has none here.
            return {}

    def _constant(self, name: str) -> onnx.TensorProto:
        """Return a constant for shape inference, which reads the values of small ones alone."""
        tensor = self.constants[name]
        from onnx import TensorProto

        is_small = math.prod(tensor.dims) <= SMALL
        return tensor if is_small else TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)

    def values(self, name: str) -> list[int] | None:
        """Return the values of a constant shape, None where the tensor is no constant."""
        from onnx import numpy_helper

        if name not in self.constants:
            return None
        return [int(value) for value in numpy_helper.to_array(self.constants[name]).ravel()]

    def sizes(self, name: str, *, free: bool) -> Sizes:
        """Return the sizes of a tensor, with the fixed batch size or with a free one."""
        known = self.free if free else self.fixed
        return sizes_of(known[name].tensor_type) if name in known else None


def _freed(node: onnx.NodeProto, shapes: _Shapes) -> list[onnx.NodeProto]:
    """Return the nodes that do what a node does, for any batch size: mostly itself."""
    if node.domain in STANDARD:
        if node.op_type == "Reshape":
            return _freed_reshape(node, shapes)
        if node.op_type == "Gather" and (reshape := _identity_gather(node, shapes)) is not None:
            return _freed_reshape(reshape, shapes)
        if node.op_type == "Expand" or (node.op_type == "Resize" and len(node.input) > 3):
            return _with_free_shape(node, shapes)
        if node.op_type == "Concat":
            return _with_repeated_constants(node, shapes)
    return [node]


def _freed_reshape(node: onnx.NodeProto, shapes: _Shapes) -> list[onnx.NodeProto]:
    """Return a Reshape to a constant shape with -1 for the axis of the result that holds the batch."""
    shapes.follow(node, [])
    written = shapes.values(node.input[1])
    before = shapes.sizes(node.input[0], free=True)
    after = shapes.sizes(node.output[0], free=False)
    if written is None or before is None or after is None or None not in before or None in after:
        return [node]
    axis_before = before.index(None)
    sizes = [size or 0 for size in after]
    elements = math.prod(size or 0 for size in before[:axis_before]) * shapes.outer.get(node.input[0], 1)
    axis, outer = _batch_axis(elements, sizes, shapes.batch)
    if outer > 1:
        shapes.outer[node.output[0]] = outer
    if written[axis] == -1 or (written[axis] == 0 and axis == axis_before):
        return [node]
    new_shape = [-1 if i == axis else size for i, size in enumerate(sizes)]
    return [_with_input(node, 1, shapes.add_constant(f"{node.output[0]}_shape", new_shape))]


def _batch_axis(elements: int, sizes: list[int], batch: int) -> tuple[int, int]:
    """Return which axis of a reshaped tensor holds the batch, and how many elements stand in front of it in that axis.

    `elements` is how many elements stand in front of the batch in all. The last axis holds features, and the batch only
    where it has no other: (17, batch, 4, 16) becomes (17 · batch, 64), as attention in PyTorch does it.
    """
    outer = 1
    holder = 0
    for axis, size in enumerate(sizes):
        front = math.prod(sizes[:axis])
        if front == elements and (size == batch or axis < len(sizes) - 1 or axis == 0):
            return axis, 1
        if front < elements and elements % front == 0:
            holder, outer = axis, elements // front
    return holder, outer


def _identity_gather(node: onnx.NodeProto, shapes: _Shapes) -> onnx.NodeProto | None:
    """Return the Reshape that a Gather of all elements of a flat tensor in their order is; None where it is none.

    PyTorch's exporter writes it for a global average pooling with fixed shapes (as_strided).
    """
    from onnx import helper, numpy_helper

    before = shapes.sizes(node.input[0], free=False)
    if before is None or len(before) != 1 or node.input[1] not in shapes.constants:
        return None
    indices = numpy_helper.to_array(shapes.constants[node.input[1]])
    if indices.size != before[0] or not np.array_equal(indices.ravel(), np.arange(indices.size)):
        return None
    shape = shapes.add_constant(f"{node.output[0]}_order", list(indices.shape))
    return helper.make_node("Reshape", [node.input[0], shape], list(node.output), name=node.name)


def _with_input(node: onnx.NodeProto, position: int, name: str) -> onnx.NodeProto:
    """Return a copy of a node that takes another tensor at one position."""
    changed = type(node)()
    changed.CopyFrom(node)
    changed.input[position] = name
    return changed


def _with_free_shape(node: onnx.NodeProto, shapes: _Shapes) -> list[onnx.NodeProto]:
    """Return an Expand or a Resize whose constant shape begins with the batch size, with that of the images instead."""
    position = 1 if node.op_type == "Expand" else 3
    written = shapes.values(node.input[position])
    before = shapes.sizes(node.input[0], free=True)
    # An Expand to one image leaves any number of images as they are.
    is_harmless = node.op_type == "Expand" and shapes.batch == 1
    if not written or not before or is_harmless or before[0] is not None or written[0] != shapes.batch:
        return [node]
    shape, nodes = _shape_of_batch(shapes, node.output[0], written[1:])
    return [*nodes, _with_input(node, position, shape)]


def _with_repeated_constants(node: onnx.NodeProto, shapes: _Shapes) -> list[onnx.NodeProto]:
    """Return a Concat of images' values with constants, in which each constant is repeated for every image."""
    from onnx import helper

    sizes = [shapes.sizes(name, free=True) for name in node.input]
    axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
    holds_images = any(part and part[0] is None for part in sizes)
    if axis == 0 or not holds_images:
        return [node]
    nodes: list[onnx.NodeProto] = []
    changed = node
    for position, (name, part) in enumerate(zip(node.input, sizes, strict=True)):
        if not part or part[0] != shapes.batch or None in part:
            continue
        label = f"{node.output[0]}_part{position}"
        first = shapes.add_constant(f"{label}_first", [0])
        shape, shape_nodes = _shape_of_batch(shapes, label, [size or 0 for size in part[1:]])
        nodes += [
            *shape_nodes,
            helper.make_node("Gather", [name, first], [f"{label}_row"], name=f"{label}_row", axis=0),
            helper.make_node("Expand", [f"{label}_row", shape], [f"{label}_rows"], name=f"{label}_rows"),
        ]
        changed = _with_input(changed, position, f"{label}_rows")
    return [*nodes, changed]


def _shape_of_batch(shapes: _Shapes, label: str, others: list[int]) -> tuple[str, list[onnx.NodeProto]]:
    """Return the name of a shape, the number of images and then the other sizes, and the nodes that make it."""
    from onnx import helper

    zero = shapes.add_constant(f"{label}_zero", [0])
    rest = shapes.add_constant(f"{label}_sizes", others)
    whole, size, shape = (f"{label}_{word}" for word in ("images", "batch", "shape"))
    return shape, [
        helper.make_node("Shape", [shapes.images.name], [whole], name=whole),
        helper.make_node("Gather", [whole, zero], [size], name=size, axis=0),
        helper.make_node("Concat", [size, rest], [shape], name=shape, axis=0),
    ]
