"""Shared by the quantizers on ONNX Runtime: correct biases layer by layer, in the model that is quantized up to there.

A layer's shift then includes what the errors of the layers before it do to its input. It helps most where each layer
adds to a systematic error, as depthwise convolutions and squeeze-and-excitation do. Each layer is computed twice in
all: the quantized inputs of layers are kept, and the model goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantizers._activations import Reduction, append, batches, open_session, reduce
from tasks.quantizers._bias import Layer, layers, set_bias
from tasks.quantizers._graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, ValueInfoProto

    from tasks.quantizers import Calibration

IMAGES = 64
"""Images at most with which shifts are measured. The same images go through both models, so that few are enough."""


class Spread:
    """Some of the calibration images, evenly spread over all of them."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        count = min(IMAGES, len(calibration))
        self.numbers = np.linspace(0, len(calibration) - 1, count).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the images from the one with number `start` to the one before `stop`."""
        return np.concatenate([self.calibration.read(number, number + 1) for number in self.numbers[start:stop]])


def correct(fp32: ModelProto, form: ModelProto, calibration: Calibration) -> None:
    """Correct the biases of an int8 form one after the other, in the order of the graph."""
    graph = Graph(form)
    found = list(layers(Graph(fp32), graph))
    if not found:
        return
    images = Spread(calibration)
    expected = _means(fp32, found, images)
    partial = _Partial(graph, images)
    for number, layer in enumerate(found):
        shift = partial.mean(layer) - expected[layer.mean]
        set_bias(graph, layer, layer.bias - shift.astype(np.float32))
        partial.forget(found[number + 1 :])


def _means(fp32: ModelProto, found: list[Layer], images: Spread) -> dict[Reduction, np.ndarray]:
    """Return the means of the channels of each layer's output in the fp32 model."""
    sums: dict[Reduction, np.ndarray] = {}
    for count, means in reduce(fp32, [layer.mean for layer in found], images):
        for key, mean in means.items():
            sums[key] = sums.get(key, 0) + count * mean
    return {key: total / len(images) for key, total in sums.items()}


class _Partial:
    """A form that is executed piece by piece. What lies between the pieces is kept, batch by batch."""

    def __init__(self, form: Graph, images: Spread) -> None:
        self.form = form
        self.sizes = [len(batch) for batch in batches(images)]
        """Number of images of each batch."""
        self.known: dict[str, list[np.ndarray]] = {"input": list(batches(images))}
        """Tensor -> its values for each batch. Where an activation is quantized, it is the tensor of integers."""

    def mean(self, layer: Layer) -> np.ndarray:
        """Return the mean of each channel of a layer's output: float64, (channels,)."""
        output = layer.quantized.output[0]
        reduction = Reduction("ReduceMean", output, layer.axes)
        sources, piece = self._piece(output)
        append(piece, [reduction])
        wanted = [reduction.name]
        kept = self._kept(layer)
        if kept not in self.known:
            piece.graph.output.append(self._info(kept, layer))
            wanted.append(kept)
        session = open_session(piece)
        total: np.ndarray = np.zeros(1)
        for number, count in enumerate(self.sizes):
            mean, *values = session.run(wanted, {name: self.known[name][number] for name in sources})
            total = total + count * mean
            if values:
                # The list is complete only after the last batch, and the next piece reads it.
                self.known.setdefault(kept, []).append(values[0])
        return total / sum(self.sizes)

    def _kept(self, layer: Layer) -> str:
        """Return the tensor from which a layer can be computed anew: its quantized input, where it is quantized."""
        name = layer.quantized.input[0]
        node = self.form.producer.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else name

    def _info(self, name: str, layer: Layer) -> ValueInfoProto:
        """Return the description of a layer's input as an output of a piece."""
        import onnx

        kind = onnx.TensorProto.FLOAT
        if name != layer.quantized.input[0]:
            zero = self.form.producer[layer.quantized.input[0]].input[2]
            kind = self.form.initializers[zero].data_type
        return onnx.helper.make_tensor_value_info(name, kind, None)

    def _needed(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return the known tensors from which some tensors are computed, and the first outputs of the nodes between."""
        sources: set[str] = set()
        nodes: set[str] = set()
        unseen = list(names)
        while unseen:
            name = unseen.pop()
            node = self.form.producer.get(name)
            if name in self.known:
                sources.add(name)
            elif node is not None and node.output[0] not in nodes:
                nodes.add(node.output[0])
                unseen += node.input
        return sources, nodes

    def _piece(self, output: str) -> tuple[set[str], ModelProto]:
        """Return the known tensors that the piece of the form up to a tensor reads, and the piece, without outputs."""
        import onnx

        sources, nodes = self._needed([output])
        form = self.form.model
        piece = onnx.ModelProto(ir_version=form.ir_version, opset_import=form.opset_import)
        piece.graph.name = "piece"
        piece.graph.node.extend(node for node in form.graph.node if node.output[0] in nodes)
        read = {name for node in piece.graph.node for name in node.input}
        piece.graph.initializer.extend(tensor for tensor in form.graph.initializer if tensor.name in read)
        for name in sorted(sources):
            values = self.known[name][0]
            kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            shape = [None] * values.ndim
            piece.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        return sources, piece

    def forget(self, remaining: list[Layer]) -> None:
        """Forget what no remaining layer needs."""
        needed, _ = self._needed([layer.quantized.output[0] for layer in remaining])
        self.known = {name: values for name, values in self.known.items() if name in needed}
