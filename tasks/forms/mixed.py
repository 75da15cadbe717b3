"""Put some nodes of an int8 form back into floating point, without quantizing or calibrating anew.

An int8 form has the tensors of its float graph under the same names, and quantizes and dequantizes them between the
operators (Q/DQ pairs). So the operators that make a tensor can be replaced by those of the float graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.forms.dataflow import SIZES, Dataflow, names_of
from tasks.forms.onnxgraph import STANDARD, remove_unused, sort_nodes
from tasks.forms.qdq import PairedGraph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import onnx

    from tasks.forms.qdq import Pair

PASSING = (
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Relu",
    "Clip",
)
"""Operators that runtimes execute in the precision of their neighbours."""
INLINED = "_inlfunc_"
"""How the names begin that ONNX Runtime gives when it writes an operator as simpler ones."""


def in_float(int8: onnx.ModelProto, fp32: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """Return an int8 form in which some nodes of its float graph compute in floating point.

    They have the weights and biases of the float graph. Between two of them there is no Q/DQ pair; at their borders it
    stays, because the int8 neighbour needs it. What the quantizer has merged is put into floating point as a whole: an
    activation that became part of the range of a convolution, a BatchNorm that was folded into its weights. Where all
    nodes are named, the result computes what the float graph does. Where none is, it is the int8 form.

    Parameters
    ----------
    int8
        A form with Q/DQ pairs, or an earlier result of this function.
    fp32
        The float graph that the form was made from, and not one with other ranges: where weights were equalised across
        layers before the form was calibrated, this is the graph with the equalised weights.
    nodes
        Names as `dataflow.names_of` returns them for `fp32`.

    Raises
    ------
    ValueError
        If `fp32` has no node of a name, if a node has graphs within it (If, Loop), or if the form has neither the
        node's output nor any tensor that is computed from it: it was made from another graph.
    """
    import onnx

    mixed = onnx.ModelProto()
    mixed.CopyFrom(int8)
    if nodes:
        source = _same_opset(fp32, int8)
        _Mix(mixed, source).replace(_numbers(source.graph, nodes))
    return mixed


def _same_opset(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> onnx.ModelProto:
    """Return the float graph in the version of ONNX's operators that the int8 form has: quantizers raise old ones."""
    import onnx

    versions = [_opset(model) for model in (fp32, int8)]
    if versions[0] == versions[1]:
        return fp32
    return onnx.version_converter.convert_version(fp32, versions[1])


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in STANDARD)


def _numbers(graph: onnx.GraphProto, nodes: Collection[str]) -> set[int]:
    """Return the numbers of the nodes with these names."""
    numbers = {name: number for number, name in enumerate(names_of(graph))}
    for name in nodes:
        if name not in numbers:
            raise ValueError(f"the float graph has no node {name}")
    return {numbers[name] for name in nodes}


class _Mix:
    """Replaces operators of an int8 form by those of its float graph."""

    def __init__(self, model: onnx.ModelProto, source: onnx.ModelProto) -> None:
        self.model = model
        self.source = source
        self.form = PairedGraph(model.graph)
        self.nodes = source.graph.node
        self.makers = {name: number for number, node in enumerate(self.nodes) for name in node.output}
        self.users: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in node.input:
                self.users.setdefault(name, []).append(number)
        self.flow = Dataflow(source).tensors
        self.constants = {tensor.name: tensor for tensor in source.graph.initializer}
        self.chosen: set[int] = set()
        """Numbers of the float graph's nodes that are in floating point."""
        self.made: set[str] = set()
        """Names in the form of the tensors that these nodes make."""
        self.taken = {*self.form.makers, *self.form.users, *self.form.constants, *self.form.inputs}
        """Names of tensors that the form has or gets."""
        self.kept: set[str] = set()
        """Results of the Q/DQ pairs that stay."""
        self.in_int8: set[str] = set()
        """First outputs of the form's nodes that stay in int8."""

    def replace(self, numbers: set[int]) -> None:
        """Replace what computes the outputs of these nodes."""
        more = numbers
        while more:
            self._choose(more)
            self._keep_pairs()
            more = self._lost()
        self._rebuild()

    def _choose(self, numbers: set[int]) -> None:
        """Choose nodes, and with them those without which the form has not the tensors that they take and make."""
        waiting = sorted(numbers)
        while waiting:
            number = waiting.pop()
            if number not in self.chosen:
                self._check(number)
                self.chosen.add(number)
                waiting += [*self._needed_before(number), *self._needed_after(number)]
        outputs = [name for number in self.chosen for name in self.nodes[number].output if name]
        self.made = {self.form.original(name) for name in outputs if self.form.has(name)}

    def _check(self, number: int) -> None:
        node = self.nodes[number]
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            name = names_of(self.source.graph)[number]
            raise ValueError(f"node {name} ({node.op_type}) has graphs within it, which cannot be put into float")

    def _needed_before(self, number: int) -> Iterator[int]:
        """Yield the makers of what a node takes and the form lacks, or has as a quantized constant."""
        for name in filter(None, self.nodes[number].input):
            maker = self.makers.get(name)
            if maker is None:
                if name not in self.constants and name not in self.form.inputs:
                    raise ValueError(self._unmatched(number, name))
                continue
            made_by = self.form.makers.get(self.form.original(name))
            is_quantized = made_by is not None and self.form.is_quantized(made_by)
            if not self.form.has(name) or (name not in self.flow and is_quantized):
                yield maker

    def _needed_after(self, number: int) -> Iterator[int]:
        """Yield the users of what a node makes and the form lacks."""
        for name in filter(None, self.nodes[number].output):
            if self.form.has(name):
                continue
            if any(name == value.name for value in self.source.graph.output):
                raise ValueError(self._unmatched(number, name))
            yield from self.users.get(name, ())

    def _unmatched(self, number: int, tensor: str) -> str:
        name = names_of(self.source.graph)[number]
        return f"node {name}: the int8 form has no tensor {tensor}, so it was not made from this float graph"

    def _entries(self) -> Iterator[str]:
        """Yield the names in the form, before any Q/DQ pair, of the tensors that the chosen nodes take from others."""
        for number in self.chosen:
            for name in filter(None, self.nodes[number].input):
                if name not in self.constants and self.makers.get(name) not in self.chosen:
                    yield self.form.original(name)

    def _live(self) -> list[onnx.NodeProto]:
        """Return the nodes of the form, Q/DQ aside, that compute something which is still needed."""
        waiting = [*self.form.outputs, *self._entries()]
        seen: set[str] = set()
        live: dict[str, onnx.NodeProto] = {}
        while waiting:
            name = waiting.pop()
            node = self.form.makers.get(name)
            if name in seen or node is None or name in self.made:
                continue
            seen.add(name)
            waiting += node.input
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                live[node.output[0]] = node
        return list(live.values())

    def _keep_pairs(self) -> None:
        """Find the nodes that stay in int8, and the Q/DQ pairs that they need.

        Runtimes compute an operator in int8 if its inputs were dequantized and its output is quantized. Operators that
        only pass values on have the precision of their neighbours, so that the need goes through them.
        """
        live = self._live()
        passing = {node.output[0]: node for node in live if node.op_type in PASSING}
        waiting = [node for node in live if node.op_type not in (*PASSING, *SIZES) and self.form.is_quantized(node)]
        self.in_int8 = set()
        self.kept = set()
        while waiting:
            node = waiting.pop()
            if node.output[0] in self.in_int8:
                continue
            self.in_int8.add(node.output[0])
            self.kept.update(pair.result for pair in self._pairs_around(node))
            for tensor in self._tensors_around(node):
                maker = self.form.makers.get(tensor)
                neighbours = [] if maker is None or tensor in self.made else [maker]
                neighbours += self.form.users.get(tensor, [])
                waiting += [passing[near.output[0]] for near in neighbours if near.output[0] in passing]

    def _pairs_around(self, node: onnx.NodeProto) -> Iterator[Pair]:
        """Yield the Q/DQ pairs directly before and behind a node."""
        for name in node.input:
            tensor = name
            while tensor in self.form.pairs:
                yield self.form.pairs[tensor]
                tensor = self.form.pairs[tensor].original
        for name in node.output:
            yield from self.form.pairs_of.get(name, ())

    def _tensors_around(self, node: onnx.NodeProto) -> Iterator[str]:
        """Yield the tensors that connect a node with others, also through Q/DQ pairs that are kept."""
        for name in (*node.input, *node.output):
            original = self.form.original(name)
            yield original
            yield from (pair.result for pair in self.form.pairs_of.get(original, ()) if pair.result in self.kept)

    def _lost(self) -> set[int]:
        """Return the nodes whose work the form does only by the range of a Q/DQ pair that is going to be removed.

        A quantizer removes an activation (Relu) if the range of its result cuts values as the activation does.
        """
        lost = set()
        for node in self._live():
            for name in node.output:
                pairs = self.form.pairs_of.get(name, ())
                if all(pair.result in self.kept for pair in pairs):
                    continue
                maker = self.makers.get(name)
                if maker is None:
                    maker = next((self.makers[p.result] for p in pairs if p.result in self.makers), None)
                if maker is not None and self.nodes[maker].op_type != node.op_type:
                    lost.add(maker)
        return lost - self.chosen

    def _rebuild(self) -> None:
        """Put the chosen nodes into the form's graph, and remove what nothing needs any more."""
        graph = self.form.graph
        removed = {
            pair.result: self.form.original(pair.result)
            for pair in self.form.pairs.values()
            if pair.result not in self.kept
        }
        names = self._float_names()
        additions = [self._copy(number, names) for number in sorted(self.chosen)]
        for node in graph.node:
            node.output[:] = [self._unused(f"{name}_int8") if name in self.made else name for name in node.output]
            node.input[:] = [removed.get(name, name) for name in node.input]
        graph.node.extend(additions)
        for output in self.form.outputs & removed.keys():
            self._move(removed[output], output)
        remove_unused(graph)
        sort_nodes(graph)
        self._rename_inlined()
        self._import_domains()

    def _move(self, old: str, new: str) -> None:
        """Make the tensor `old` the graph's output `new`, whose Q/DQ pair was removed."""
        for node in self.form.graph.node:
            node.output[:] = [f"{new}_removed" if name == new else name for name in node.output]
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]

    def _float_names(self) -> dict[str, str]:
        """Return the names in the form of all tensors that the chosen nodes take and make."""
        names: dict[str, str] = {"": ""}
        for number in self.chosen:
            for name in self.nodes[number].output:
                if self.form.has(name):
                    names[name] = self.form.original(name)
                elif name:
                    names[name] = self._unused(name)
        for number in self.chosen:
            for name in self.nodes[number].input:
                if name in names:
                    continue
                names[name] = self._constant(name) if name in self.constants else self._entry(name)
        return names

    def _constant(self, name: str) -> str:
        """Return the name in the form of a constant of the float graph, which is added where the form has it not."""
        graph = self.form.graph
        tensor = self.constants[name]
        if any(other == tensor for other in graph.initializer if other.name == name):
            return name
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = self._unused(name)
        return copy.name

    def _unused(self, name: str) -> str:
        """Return a name that no tensor of the form has, and take it: the wanted one, if need be with an ending."""
        while name in self.taken:
            name = f"{name}_float"
        self.taken.add(name)
        return name

    def _entry(self, name: str) -> str:
        """Return what a chosen node takes as the tensor `name`, which other nodes make.

        Behind a node in int8 it is what comes out of the Q/DQ pair, without which the node would not be in int8.
        """
        original = self.form.original(name)
        node = self.form.makers.get(original)
        pairs = [pair.result for pair in self.form.pairs_of.get(original, ()) if pair.result in self.kept]
        maker = self.makers.get(name)
        is_same = node is None or maker is None or node.op_type == self.nodes[maker].op_type
        if pairs and node is not None and (node.output[0] in self.in_int8 or not is_same):
            return pairs[0]
        return original

    def _copy(self, number: int, names: dict[str, str]) -> onnx.NodeProto:
        import onnx

        node = onnx.NodeProto()
        node.CopyFrom(self.nodes[number])
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        return node

    def _rename_inlined(self) -> None:
        """Rename what ONNX Runtime has named while it wrote an operator as simpler ones, as it prepared the graph.

        It does so with the float graph's operators (HardSwish) once more, and then takes the same names (1.31).
        """
        graph = self.form.graph
        others = {name for node in self.nodes for name in (node.name, *node.output)} | self.constants.keys()

        def renamed(name: str) -> str:
            return f"int8{name}" if name.startswith(INLINED) and name not in others else name

        for node in graph.node:
            node.name = renamed(node.name)
            node.input[:] = map(renamed, node.input)
            node.output[:] = map(renamed, node.output)
        for value in (*graph.initializer, *graph.value_info):
            value.name = renamed(value.name)

    def _import_domains(self) -> None:
        """Add the float graph's domains of operators, and its functions, that the form has not."""
        domains = {entry.domain for entry in self.model.opset_import}
        self.model.opset_import.extend(e for e in self.source.opset_import if e.domain not in domains)
        functions = {(function.domain, function.name) for function in self.model.functions}
        self.model.functions.extend(f for f in self.source.functions if (f.domain, f.name) not in functions)
