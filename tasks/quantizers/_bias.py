"""Shared by the quantizers on ONNX Runtime: correct biases by the shift that quantizing causes in a layer's output.

The rounding of weights and activations moves the mean of a channel, which a different bias moves back (Nagel et al.
2019, Data-free quantization through weight equalization and bias correction, section 4.2). The shift is measured on the
calibration images, layer by layer with the fp32 model's activations as inputs. _sequential.py measures it in the model
that is quantized and corrected up to the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers._activations import Reduction, reduce
from tasks.quantizers._graph import Graph, attribute, ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

    from tasks.quantizers import Calibration


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product with constant weights, in the fp32 graph and in its int8 form."""

    node: NodeProto
    """The node in the fp32 graph."""
    quantized: NodeProto
    """The node in the int8 form."""
    holder: NodeProto
    """The node of the form that has the bias as an input: the layer's own, or the addition behind a MatMul."""
    place: int
    """Number of the holder's input that is the bias. The holder may lack this input."""
    bias: np.ndarray
    """The bias in fp32, or zeros: float32, (channels,)."""
    axes: tuple[int, ...]
    """The axes of the layer's output over which the mean of a channel is taken."""

    @property
    def mean(self) -> Reduction:
        """Return the mean of each channel of the layer's output in the fp32 graph."""
        return Reduction("ReduceMean", self.node.output[0], self.axes)


def layers(fp32: Graph, form: Graph) -> Iterator[Layer]:
    """Yield the layers whose bias can be corrected: those with int8 weights, in the order of the form."""
    originals = {node.name: node for node in fp32.layers()}
    by_name = {node.name: node for node in form.model.graph.node}
    known = ranks(fp32.model)
    for quantized in form.model.graph.node:
        node = originals.get(quantized.name)
        if node is None or not _is_dequantized(form, quantized.input[1]):
            continue
        channels, axes = _channels(fp32, node, known)
        if node.op_type != "MatMul":
            holder, place, bias = quantized, 2, node.input[2] if len(node.input) > 2 else ""
        else:
            addition = fp32.only_consumer(node.output[0])
            if addition is None or addition.op_type != "Add" or addition.name not in by_name:
                continue
            place = 1 - list(addition.input).index(node.output[0])
            holder, bias = by_name[addition.name], addition.input[place]
        values = fp32.constant(bias) if bias in fp32.initializers else np.zeros(channels, np.float32)
        constant = not bias or fp32.is_constant(bias)
        if constant and axes and values.size == channels and attribute(node, "beta", 1.0) == 1:
            yield Layer(node=node, quantized=quantized, holder=holder, place=place, bias=values.reshape(-1), axes=axes)


def _channels(fp32: Graph, node: NodeProto, known: dict[str, int]) -> tuple[int, tuple[int, ...]]:
    """Return the number of channels of a layer's output, and the other axes, or none where these are not known."""
    weight = fp32.initializers[node.input[1]].dims
    if node.op_type == "Gemm":
        return weight[0 if attribute(node, "transB", 0) else 1], (0,)
    if node.op_type == "MatMul":
        return weight[-1], tuple(range(known.get(node.output[0], 1) - 1)) if len(weight) == 2 else ()
    spatial = tuple(range(2, len(weight)))
    if node.op_type == "ConvTranspose":
        return weight[1] * attribute(node, "group", 1), (0, *spatial)
    return weight[0], (0, *spatial)


def _is_dequantized(form: Graph, name: str) -> bool:
    """Return whether a tensor is a quantized constant."""
    node = form.producer.get(name)
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in form.initializers


def dequantized(form: Graph, name: str) -> np.ndarray:
    """Return the values of a constant of the form, quantized or not, in fp32."""
    if name in form.initializers:
        return form.constant(name)
    node = form.producer[name]
    values, scale, zero = (form.constant(each) for each in node.input)
    if scale.ndim:
        shape = [1] * values.ndim
        shape[attribute(node, "axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((values.astype(np.int64) - zero) * scale).astype(np.float32)


def correct(fp32: ModelProto, form: ModelProto, calibration: Calibration) -> None:
    """Correct the biases of an int8 form, each for its layer by itself."""
    graph = Graph(form)
    found = list(layers(Graph(fp32), graph))
    if not found:
        return
    after = [_append_quantized(fp32, graph, layer) for layer in found]
    before = [layer.mean for layer in found]
    total, sums = 0, [np.zeros(1)] * len(found)
    for images, means in reduce(fp32, [*before, *after], calibration):
        total += images
        sums = [sum_ + images * (means[new] - means[old]) for sum_, new, old in zip(sums, after, before, strict=True)]
    for layer, shift in zip(found, sums, strict=True):
        set_bias(graph, layer, layer.bias - (shift / total).astype(np.float32))


def _append_quantized(fp32: ModelProto, form: Graph, layer: Layer) -> Reduction:
    """Add a layer as it is in the form to the fp32 graph, on the same input; return the mean of its channels."""
    import onnx

    name = f"quantized:{layer.node.name}"
    copy = onnx.NodeProto()
    copy.CopyFrom(layer.node)
    copy.name = name
    copy.output[0] = name
    added = [copy]
    constants = {f"{name}:weight": dequantized(form, layer.quantized.input[1])}
    copy.input[1] = f"{name}:weight"
    dequantize = form.producer.get(layer.quantized.input[0])
    if dequantize is not None and dequantize.op_type == "DequantizeLinear":
        scale, zero = f"{name}:scale", f"{name}:zero"
        constants[scale] = form.constant(dequantize.input[1])
        constants[zero] = form.constant(dequantize.input[2])
        steps = [
            onnx.helper.make_node("QuantizeLinear", [layer.node.input[0], scale, zero], [f"{name}:int8"]),
            onnx.helper.make_node("DequantizeLinear", [f"{name}:int8", scale, zero], [f"{name}:input"]),
        ]
        copy.input[0] = f"{name}:input"
        added = [*steps, copy]
    fp32.graph.initializer.extend(onnx.numpy_helper.from_array(values, key) for key, values in constants.items())
    place = next(number for number, node in enumerate(fp32.graph.node) if node.name == layer.node.name)
    for offset, node in enumerate(added):
        fp32.graph.node.insert(place + offset, node)
    return Reduction("ReduceMean", name, layer.axes)


def set_bias(form: Graph, layer: Layer, values: np.ndarray) -> None:
    """Give a layer of the form another bias: float32, (channels,). It is quantized as the old one was."""
    holder, place = layer.holder, layer.place
    if place >= len(holder.input) or not holder.input[place]:
        _add_bias(form, layer, values)
        return
    node = form.producer.get(holder.input[place])
    if node is None:
        form.replace(holder, place, values.reshape(form.constant(holder.input[place]).shape))
        return
    name, scale, zero = node.input
    old = form.constant(name)
    if old.dtype != np.int32:
        step, middle = _scale(values, old.dtype)
        form.overwrite(scale, np.full_like(form.constant(scale), step))
        form.overwrite(zero, np.full_like(form.constant(zero), middle))
    limits = np.iinfo(old.dtype)
    rounded = np.rint(values.astype(float) / form.constant(scale).reshape(-1)) + form.constant(zero).reshape(-1)
    form.overwrite(name, np.clip(rounded, limits.min, limits.max).astype(old.dtype).reshape(old.shape))


def _scale(values: np.ndarray, dtype: np.dtype) -> tuple[float, int]:
    """Return the scale and the zero point with which 8-bit integers hold these values."""
    if dtype == np.int8:
        return float(abs(values).max()) / 127 or 1.0, 0
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / 255 or 1.0
    return step, round(-low / step)


def _add_bias(form: Graph, layer: Layer, values: np.ndarray) -> None:
    """Give a bias to a layer that has none: int32 where its input is quantized without a sign, as ORT does it."""
    import onnx

    holder = layer.holder
    name = f"{holder.name}:bias"
    dequantize = form.producer.get(holder.input[0])
    quantized = dequantize is not None and dequantize.op_type == "DequantizeLinear"
    if not quantized or form.constant(dequantize.input[2]).dtype == np.int8:  # type: ignore[union-attr]
        form.add(name, values)
    else:
        weights = form.producer[holder.input[1]]
        scale = form.constant(dequantize.input[1]) * form.constant(weights.input[1])  # type: ignore[union-attr]
        scale = np.broadcast_to(scale, values.shape).astype(np.float32)
        form.add(f"{name}_int32", np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int32))
        form.add(f"{name}_scale", scale.copy())
        form.add(f"{name}_zero", np.zeros(len(values), np.int32))
        node = onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_int32", f"{name}_scale", f"{name}_zero"], [name], name=name, axis=0
        )
        form.model.graph.node.insert(0, node)
        # Inserting a node has moved the others: nodes that were looked up before stay valid, the index does not.
        form.index()
    del holder.input[2:]
    holder.input.append(name)
