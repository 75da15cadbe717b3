"""What an ONNX graph tells beside its profile: modules of the model, convolutions, Q/DQ nodes that were not fused."""

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
"""What runtimes fuse with the convolution or matrix product before it, which then goes by the name of the last of
them."""
HEAVY = ("Conv", "ConvTranspose", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention")
# Weights keep the name of their module through quantization and fusion: "layer1.0.conv1.weight_quantized".
WEIGHT = re.compile(r"(?:^|/)([^/]+)\.(?:weight|bias)(?:$|[_.:])")
# What the quantizer, ONNX Runtime and OpenVINO add to a name of a node or tensor when they wrap or fuse it.
ADDED = re.compile(
    r"(?:_token_\d+|_nchwc|_quant(?:_scales_mul|_output_scale_mul)?|_output_quantized_cast|_bias_(?:dq|add)"
    r"|_(?:De)?[Qq]uantizeLinear|/duplicated|/WithoutBiases|/DequantizationMultiply)+$"
)


def is_integer(op_type: str) -> bool:
    """Whether an operator computes in int8."""
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
    """Whether the file is an int8 model."""
    return any(n.op_type in (*QUANTIZE, "DynamicQuantizeLinear") or is_integer(n.op_type) for n in model.graph.node)


def is_dynamic(model: onnx.ModelProto) -> bool:
    """Whether the ranges of activations are found in every query."""
    return any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node)


def overridable(model: onnx.ModelProto) -> int:
    """How many weights are inputs of the graph, too: a caller could give others, so that they are no constants.

    Exporters of before 2019 write them so (IR version 3), and some scripts still do.
    """
    return len({tensor.name for tensor in model.graph.initializer} & {value.name for value in model.graph.input})


def unfolded(model: onnx.ModelProto) -> dict[str, str]:
    """Names of BatchNormalization nodes, and what keeps a runtime from folding each into the convolution before it."""
    made = {output: node for node in model.graph.node for output in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    stored = {tensor.name for tensor in model.graph.initializer} - {value.name for value in model.graph.input}
    found = {}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        before = made.get(node.input[0])
        if any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute):
            reason = "it is in training mode"
        elif not set(node.input[1:]) <= stored:
            reason = "its weights are no constants of the graph"
        elif before is None or before.op_type not in ("Conv", "ConvTranspose"):
            reason = f"it follows {before.op_type if before else 'the input'}, no convolution"
        elif uses[node.input[0]] > 1:
            reason = "what its convolution gives is used elsewhere, too"
        else:
            reason = "the runtime did not fold it"
        found[node.name] = reason
    return found


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """Operators of each type, those of the bodies of loops and branches included."""

    def of(graph: onnx.GraphProto) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in graph.node:
            found[node.op_type] += 1
            for attribute in node.attribute:
                for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                    found += of(body)
        return found

    return of(model.graph)


class Modules:
    """Module paths of nodes: from the name of a weight, from the exporter's notes, or from names that are paths.

    PyTorch's exporter notes the modules of each node (`pkg.torch.onnx.name_scopes`); its older one wrote them into the
    node's name (`/layer1/layer1.0/conv1/Conv`). Optimizing keeps neither, but names of weights, tensors and nodes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.known: dict[str, str] = {}
        self.fused: dict[str, str] = {}
        for node in model.graph.node:
            noted = {entry.key: entry.value for entry in node.metadata_props}
            scopes = ast.literal_eval(noted.get("pkg.torch.onnx.name_scopes", "[]"))
            path = self._by_weight(node.input[1:])
            if path is None and len(scopes) > 1:
                path = scopes[-2].replace(".", "/")
            elif path is None and node.name.startswith("/"):
                path = _unrepeated(node.name.strip("/").split("/")[:-1])
            if path is not None:
                for name in (node.name, *node.output):
                    self.known.setdefault(name, path)
            if node.op_type in FUSED:
                path = next((self.fused[name] for name in node.input if name in self.fused), None)
            if path is not None and node.op_type in (*HEAVY, *FUSED):
                self.fused.update(dict.fromkeys((node.name, *node.output), path))

    @staticmethod
    def _by_weight(inputs: Iterable[str]) -> str | None:
        for name in inputs:
            if found := WEIGHT.search(name):
                return found[1].replace(".", "/")
        return None

    def path(self, names: Iterable[str], inputs: Iterable[str] = (), heavy: bool = False) -> str:
        """Module path of a node by the names of its inputs, else by its own name or those of its outputs; or "".

        `heavy`: it is a convolution or matrix product, also where it has the name of what is fused with it.
        """
        given = list(inputs)[1:]
        if (found := self._by_weight(name for name in given if ".bias" not in name)) is not None:
            return found
        for table in (self.fused, self.known) if heavy else (self.known,):
            for name in names:
                for known in (name, ADDED.sub("", name)):
                    if known in table:
                        return table[known]
        # the last: ONNX Runtime shares equal biases among modules
        return self._by_weight(given) or ""


def _unrepeated(parts: list[str]) -> str:
    """layer1, layer1.0, conv1 -> layer1/0/conv1."""
    path: list[str] = []
    for part in parts:
        above = ".".join(path)
        path += (part.removeprefix(above + ".") if above else part).split(".")
    return "/".join(path)


def convolutions(model: onnx.ModelProto, modules: Modules) -> list[Convolution]:
    """Convolutions whose weights are stored, also where they are stored as int8 with a DequantizeLinear node."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    found = []
    for node in model.graph.node:
        weight = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}.get(node.op_type)
        if weight is None or node.input[weight] not in shapes:
            continue
        out_channels, per_group = shapes[node.input[weight]][:2]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        path = modules.path((node.name, *node.output), node.input)
        name = node.name or node.output[0]
        found.append(Convolution(name=name, path=path, in_channels=per_group * groups, out_channels=out_channels))
    return found


def unfused(model: onnx.ModelProto) -> set[str]:
    """Names of nodes of an optimized graph that still compute in floating point between Q/DQ nodes.

    They are operators fed by DequantizeLinear whose results go into QuantizeLinear alone, convolutions and matrix
    products all of whose inputs are fed so, and DequantizeLinear nodes with nothing between them and QuantizeLinear.
    """
    made = {output: node for node in model.graph.node for output in node.output}
    uses: dict[str, list[str]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            uses[name].append(node.op_type)
    found = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        users = {user for output in node.output for user in uses[output]}
        if node.op_type == "DequantizeLinear":
            if users == {"QuantizeLinear"}:
                found.add(node.name)
            continue
        fed = [name in made and made[name].op_type == "DequantizeLinear" for name in node.input]
        if any(fed) and (users == {"QuantizeLinear"} or (node.op_type in HEAVY and all(fed[:2]))):
            found.add(node.name)
    return found


def constant(model: onnx.ModelProto) -> set[str]:
    """Names of nodes that depend on weights alone and are executed all the same."""
    varying = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if varying.isdisjoint(node.input):
            found.add(node.name)
        else:
            varying.update(node.output)
    return found


def read(path: Path) -> onnx.ModelProto:
    """The graph without external data, each node with a name of its own (profiles go by name).

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
