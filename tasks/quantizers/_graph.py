"""Shared by the quantizers that rewrite ONNX graphs: which node makes a tensor, which nodes read it, and its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with a weight as their second input."""


class Graph:
    """An ONNX model with its nodes by tensor. After nodes are added or removed, `index` must be called."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.index()

    def index(self) -> None:
        """Look up anew which nodes make and read each tensor."""
        graph = self.model.graph
        self.producer: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        """Tensor -> the node that makes it."""
        self.consumers: dict[str, list[NodeProto]] = {}
        """Tensor -> the nodes that read it, each once per input."""
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        """Name -> constant."""
        self.outputs = {output.name for output in graph.output}
        """Names of the model's outputs."""

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is a constant of floating-point numbers."""
        import onnx

        return name in self.initializers and self.initializers[name].data_type == onnx.TensorProto.FLOAT

    def constant(self, name: str) -> np.ndarray:
        """Return the values of a constant."""
        import onnx

        return onnx.numpy_helper.to_array(self.initializers[name])

    def replace(self, node: NodeProto, place: int, values: np.ndarray) -> None:
        """Give a node other values as its input number `place`. Nodes that share the constant keep the old one."""
        name = node.input[place]
        if len(self.consumers[name]) > 1:
            self.consumers[name].remove(node)
            name = self.add(f"{name}_of_{node.output[0]}", values)
            node.input[place] = name
            self.consumers[name] = [node]
        else:
            self.overwrite(name, values)

    def add(self, name: str, values: np.ndarray) -> str:
        """Add a constant, and return its name."""
        import onnx

        self.model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        self.initializers[name] = self.model.graph.initializer[-1]
        return name

    def overwrite(self, name: str, values: np.ndarray) -> None:
        """Give a constant other values."""
        import onnx

        self.initializers[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    def only_consumer(self, name: str) -> NodeProto | None:
        """Return the one node that reads a tensor, or None where several do, or it is an output of the model."""
        nodes = self.consumers.get(name, [])
        return nodes[0] if len(nodes) == 1 and name not in self.outputs else None

    def layers(self) -> list[NodeProto]:
        """Return the nodes with a constant weight, in the order of the graph."""
        return [node for node in self.model.graph.node if node.op_type in LAYERS and self.is_constant(node.input[1])]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or the default where it has none of this name."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def ranks(model: ModelProto) -> dict[str, int]:
    """Return the number of axes of each tensor whose shape is known."""
    types = {info.name: info.type.tensor_type for info in (*model.graph.value_info, *model.graph.output)}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}
