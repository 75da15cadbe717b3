"""What an ONNX graph tells that its profile does not.

It tells to which module of the model a node belongs, which convolutions there are, and which quantize-dequantize (Q/DQ)
nodes were not fused.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.profilers import Convolution

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

QUANTIZE = ("QuantizeLinear", "DequantizeLinear")
FUSED = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Add", "Mul", "BatchNormalization", *QUANTIZE)
"""Operators that runtimes fuse with the convolution or matrix product before them. The fused operator then has the name
of the last of them."""
# Convolutions and matrix products.
HEAVY = ("Conv", "ConvTranspose", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention")
# The name of a weight has the name of its module, also after quantization and fusion:
# "layer1.0.conv1.weight_quantized".
WEIGHT = re.compile(r"(?:^|/)([^/]+)\.(?:weight|bias)(?:$|[_.:])")
# What the quantizer, ONNX Runtime and OpenVINO append to the name of a node or tensor when they wrap or fuse it.
ADDED = re.compile(
    r"(?:_token_\d+|_nchwc|_quant(?:_scales_mul|_output_scale_mul)?|_output_quantized_cast|_bias_(?:dq|add)"
    r"|_(?:De)?[Qq]uantizeLinear|/duplicated|/WithoutBiases|/DequantizationMultiply)+$"
)


def is_integer(op_type: str) -> bool:
    """Return whether an operator of this type computes in int8."""
    return (
        op_type.startswith(("QLinear", "QGemm", "QAttention"))
        or "Integer" in op_type
        or op_type
        in (
            "DynamicQuantizeMatMul",
            "MatMulNBits",
        )
    )


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether the file is an int8 model."""
    return any(n.op_type in (*QUANTIZE, "DynamicQuantizeLinear") or is_integer(n.op_type) for n in model.graph.node)


def is_dynamic(model: onnx.ModelProto) -> bool:
    """Return whether the ranges of activations are computed in every query."""
    return any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node)


def overridable(model: onnx.ModelProto) -> int:
    """Return how many weights are inputs of the graph as well. A caller could set them, so they are no constants.

    Exporters before 2019 (IR version 3) wrote files in this way, and some scripts still do.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return len(weights & {value.name for value in model.graph.input})


def unfolded(model: onnx.ModelProto) -> dict[str, str]:
    """Return, by the name of each BatchNormalization node, what keeps a runtime from folding it into a convolution."""
    reasons = {}
    writers = {output: node for node in model.graph.node for output in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    constants = {tensor.name for tensor in model.graph.initializer} - {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        before = writers.get(node.input[0])
        if any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute):
            reason = "it is in training mode"
        elif not set(node.input[1:]) <= constants:
            reason = "its weights are no constants of the graph"
        elif before is None or before.op_type not in ("Conv", "ConvTranspose"):
            reason = f"it follows {before.op_type if before else 'the input'}, no convolution"
        elif uses[node.input[0]] > 1:
            reason = "what its convolution gives is used elsewhere, too"
        else:
            reason = "the runtime did not fold it"
        reasons[node.name] = reason
    return reasons


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """Return the number of operators of each type, including those in the bodies of loops and branches."""

    def count(graph: onnx.GraphProto) -> Counter[str]:
        counts: Counter[str] = Counter()
        for node in graph.node:
            counts[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    counts += count(attribute.g)
                for body in attribute.graphs:
                    counts += count(body)
        return counts

    return count(model.graph)


class Modules:
    """The modules of a model that its nodes belong to.

    PyTorch's exporter notes the modules of each node in its metadata (`pkg.torch.onnx.name_scopes`). The older exporter
    wrote them into the node's name (`/layer1/layer1.0/conv1/Conv`). An optimized graph has neither, but it keeps names
    of weights, tensors and nodes, by which a node of the file is found again.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        # The module's path by the name of a node or of its output.
        self.known: dict[str, str] = {}
        # The same, where the node is a convolution or matrix product, or an operator that is fused with one: then it is
        # the path of the convolution or product.
        self.fused: dict[str, str] = {}
        for node in model.graph.node:
            path = self._path_in_file(node)
            if path is not None:
                for name in (node.name, *node.output):
                    self.known.setdefault(name, path)
            if node.op_type in FUSED:
                path = next((self.fused[name] for name in node.input if name in self.fused), None)
            if path is not None and node.op_type in (*HEAVY, *FUSED):
                self.fused.update(dict.fromkeys((node.name, *node.output), path))

    def _path_in_file(self, node: onnx.NodeProto) -> str | None:
        """Return the path of the module that a node of the file belongs to, or None where nothing tells."""
        path = self._by_weight(node.input[1:])
        if path is not None:
            return path
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) > 1:
            return scopes[-2].replace(".", "/")
        if node.name.startswith("/"):
            return _unrepeated(node.name.strip("/").split("/")[:-1])
        return None

    @staticmethod
    def _by_weight(inputs: Iterable[str]) -> str | None:
        """Return the module's path from the names of a node's inputs, or None where none is a weight."""
        for name in inputs:
            match = WEIGHT.search(name)
            if match:
                return match[1].replace(".", "/")
        return None

    def path(self, names: Iterable[str], inputs: Iterable[str] = (), heavy: bool = False) -> str:
        """Return the path of the module that an executed node belongs to, or "" where nothing tells.

        Parameters
        ----------
        names : its own name and those of its outputs
        inputs : the names of its inputs, which are looked at first
        heavy : whether it is a convolution or matrix product, which may have the name of an operator fused with it
        """
        weights = list(inputs)[1:]
        path = self._by_weight(name for name in weights if ".bias" not in name)
        if path is not None:
            return path
        for table in (self.fused, self.known) if heavy else (self.known,):
            for name in names:
                for key in (name, ADDED.sub("", name)):
                    if key in table:
                        return table[key]
        # Biases come last, because ONNX Runtime shares equal biases among modules.
        return self._by_weight(weights) or ""


def _unrepeated(parts: list[str]) -> str:
    """Return the path of nested names that repeat each other: "layer1", "layer1.0", "conv1" make "layer1/0/conv1"."""
    path: list[str] = []
    for part in parts:
        above = ".".join(path)
        path += (part.removeprefix(above + ".") if above else part).split(".")
    return "/".join(path)


def convolutions(model: onnx.ModelProto, modules: Modules) -> list[Convolution]:
    """Return the convolutions whose weights are stored in the file, also those stored as int8 with DequantizeLinear."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    stored = []
    # Which input is the weight, by the type of the operator.
    weight_inputs = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
    for node in model.graph.node:
        weight = weight_inputs.get(node.op_type)
        if weight is None or node.input[weight] not in shapes:
            continue
        out_channels, per_group = shapes[node.input[weight]][:2]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        path = modules.path((node.name, *node.output), node.input)
        name = node.name or node.output[0]
        stored.append(Convolution(name=name, path=path, in_channels=per_group * groups, out_channels=out_channels))
    return stored


def unfused(model: onnx.ModelProto) -> set[str]:
    """Return the names of nodes of an optimized graph that still compute in floating point between Q/DQ nodes.

    These are operators that read from DequantizeLinear and whose results go into QuantizeLinear alone; convolutions and
    matrix products whose inputs all come from DequantizeLinear; and DequantizeLinear nodes with nothing between them
    and QuantizeLinear.
    """
    writers = {output: node for node in model.graph.node for output in node.output}
    users_of: dict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            users_of[name].add(node.op_type)
    names = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        users = {user for output in node.output for user in users_of[output]}
        if node.op_type == "DequantizeLinear":
            if users == {"QuantizeLinear"}:
                names.add(node.name)
            continue
        dequantized = [name in writers and writers[name].op_type == "DequantizeLinear" for name in node.input]
        if any(dequantized) and (users == {"QuantizeLinear"} or (node.op_type in HEAVY and all(dequantized[:2]))):
            names.add(node.name)
    return names


def constant(model: onnx.ModelProto) -> set[str]:
    """Return the names of nodes that depend on weights alone, which a runtime executes in every query all the same."""
    varying = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    names = set()
    for node in model.graph.node:
        if varying.isdisjoint(node.input):
            names.add(node.name)
        else:
            varying.update(node.output)
    return names


def read(path: Path) -> onnx.ModelProto:
    """Read an ONNX graph without its external data. Each node gets a name of its own, because profiles go by name.

    Raises
    ------
    ValueError
        If the file is not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX model: {error}") from None
    if not model.graph.node:
        raise ValueError(f"{path} is not an ONNX model: it has no nodes")
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{number}"
        taken.add(node.name)
    return model
