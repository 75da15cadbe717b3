"""The parts of a network whose precision is chosen as a whole: contiguous blocks, and parts that int8 often harms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.forms.dataflow import Dataflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

SHARE = 0.1
"""A block has at most this share of all nodes, if one tensor alone connects two parts of it."""
MOST = 24
"""Neighbouring blocks are joined until so many are left."""
LAYERS = 10
"""Residual, squeeze-and-excitation, attention and Inception blocks have no more layers than this, and stay whole. What
has more, and no place where one tensor alone leads on, is a part of a densely connected network, and is cut."""
BRANCHES = 16
"""Most blocks of squeeze-and-excitation branches. In deeper networks a block has several branches."""
POOLING = ("GlobalAveragePool", "ReduceMean", "AveragePool")


@dataclass(frozen=True)
class Block:
    """Nodes of a float graph that are put into another precision together."""

    name: str
    """What a person recognises: the modules that the nodes come from, such as blocks.2.1, or the name of a node."""
    nodes: tuple[str, ...]
    """Names of nodes, as `dataflow.names_of` returns them, in the order of execution."""


def blocks(fp32: onnx.ModelProto) -> tuple[Block, ...]:
    """Cut a classifier's graph into blocks.

    The first ones follow each other and hold all nodes that compute on the image. They end where one tensor alone
    connects what comes before with what comes after, so that residual blocks are whole, and preferably where the
    names of modules change. After them come parts of these blocks that int8 often harms, so that blocks overlap: the
    first and the last layer, branches of squeeze-and-excitation, the core of attention (from queries and keys to its
    result), and LayerNorm with the residual sums before it.
    """
    flow = Dataflow(fp32)
    chain = _joined(flow, _pieces(flow, 0, len(flow.nodes), len(flow.nodes) * SHARE))
    groups = [(_name(flow, piece), piece) for piece in chain]
    for name, numbers in _sensitive(flow):
        if not any(_same_layers(flow, numbers, piece) for _, piece in groups):
            groups.append((name, numbers))
    return tuple(_unique(flow, groups))


def _pieces(flow: Dataflow, start: int, stop: int, limit: float) -> list[list[int]]:
    """Cut the nodes from `start` to before `stop` into pieces of at most `limit` nodes, where this is possible.

    It is cut at all boundaries between modules of the highest level first, and then within what is still too large.
    """
    whole = [list(range(start, stop))]
    if stop - start <= limit:
        return whole
    cuts = [cut for cut in range(start + 1, stop) if flow.crossing[cut] == 1]
    if not cuts and sum(map(flow.is_layer, whole[0])) > LAYERS:
        cuts = list(range(start + 1, stop))
    if not cuts:
        return whole
    levels = [_common(flow, [cut - 1, cut]) for cut in cuts]
    lowest = min(map(len, levels))
    chosen = [cut for cut, level in zip(cuts, levels, strict=True) if len(level) == lowest]
    edges = [start, *chosen, stop]
    return [piece for left, right in itertools.pairwise(edges) for piece in _pieces(flow, left, right, limit)]


def _joined(flow: Dataflow, pieces: list[list[int]]) -> list[list[int]]:
    """Join pieces without a layer with the piece before, and then the smallest neighbours until `MOST` are left."""
    joined: list[list[int]] = []
    for piece in pieces:
        if joined and not (any(map(flow.is_layer, piece)) and any(map(flow.is_layer, joined[-1]))):
            joined[-1] = joined[-1] + piece
        else:
            joined.append(piece)
    while len(joined) > MOST:
        sizes = [len(left) + len(right) for left, right in itertools.pairwise(joined)]
        smallest = sizes.index(min(sizes))
        joined[smallest : smallest + 2] = [joined[smallest] + joined[smallest + 1]]
    return joined


def _sensitive(flow: Dataflow) -> Iterator[tuple[str, list[int]]]:
    """Yield the parts that int8 often harms: a name that may be empty, and the numbers of the nodes."""
    layers = [number for number in range(len(flow.nodes)) if flow.is_layer(number)]
    if layers:
        yield "", layers[:1]
        yield "", layers[-1:]
    branches = list(_excitations(flow))
    for group in _groups(branches, BRANCHES):
        yield "", [number for branch in group for number in branch]
    attention = sorted({number for core in _attentions(flow) for number in core})
    if attention:
        yield "attention", attention
    normalisations = sorted({number for part in _layer_norms(flow) for number in part})
    if normalisations:
        yield "LayerNorm and residual sums", normalisations


def _groups(items: list[list[int]], most: int) -> list[list[list[int]]]:
    """Return at most `most` groups of neighbouring items, of about the same size."""
    count = min(most, len(items))
    edges = [round(number * len(items) / count) for number in range(count + 1)] if count else []
    return [items[left:right] for left, right in itertools.pairwise(edges)]


def _excitations(flow: Dataflow) -> Iterator[list[int]]:
    """Yield the branches of squeeze-and-excitation, which pool a tensor and make factors of its channels."""
    for node in flow.nodes:
        if node.op_type != "Mul" or not flow.tensors.issuperset(node.input):
            continue
        for tensor, factors in (node.input, reversed(node.input)):
            branch = flow.between(tensor, factors)
            pools = any(flow.nodes[number].op_type in POOLING for number in branch)
            if pools and any(map(flow.is_layer, branch)):
                yield branch


def _attentions(flow: Dataflow) -> Iterator[list[int]]:
    """Yield the core of each attention: the product of queries and keys, Softmax, the product with values."""
    for number, node in enumerate(flow.nodes):
        if node.op_type.endswith("Attention"):
            yield [number]
        if node.op_type != "Softmax":
            continue
        users = flow.users.get(node.output[0], [])
        products = [user for user in users if flow.nodes[user].op_type == "MatMul"]
        core = [number, *products]
        # Between the product of queries and keys and the Softmax there may be a scale and a mask.
        above = number
        while products and len(sources := flow.sources(above)) == 1:
            above = sources[0]
            core.append(above)
            if flow.nodes[above].op_type == "MatMul":
                yield sorted(core)
                break


def _layer_norms(flow: Dataflow) -> Iterator[list[int]]:
    """Yield each LayerNorm with the residual sum before it, if there is one.

    An older exporter may have written a LayerNorm as single operators.
    """
    for number, node in enumerate(flow.nodes):
        if node.op_type in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
            yield [*_sum(flow, node.input[0]), number]
        if node.op_type != "Div" or not flow.tensors.issuperset(node.input):
            continue
        difference, deviation = flow.sources(number)
        if (flow.nodes[difference].op_type, flow.nodes[deviation].op_type) == ("Sub", "Sqrt"):
            start = flow.nodes[difference].input[0]
            yield [*_sum(flow, start), *flow.between(start, node.output[0]), *_scale_and_shift(flow, node.output[0])]


def _scale_and_shift(flow: Dataflow, tensor: str) -> Iterator[int]:
    """Yield the nodes that multiply a tensor by a constant, and add one."""
    for kind in ("Mul", "Add"):
        users = flow.users.get(tensor, [])
        if len(users) != 1 or flow.nodes[users[0]].op_type != kind or len(flow.sources(users[0])) != 1:
            return
        yield users[0]
        tensor = flow.nodes[users[0]].output[0]


def _sum(flow: Dataflow, tensor: str) -> list[int]:
    """Return the node that makes a tensor, if it adds two tensors that were both computed from the image."""
    makers = [flow.makers[tensor]] if tensor in flow.makers else []
    return [n for n in makers if flow.nodes[n].op_type == "Add" and flow.tensors.issuperset(flow.nodes[n].input)]


def _same_layers(flow: Dataflow, numbers: Sequence[int], piece: Sequence[int]) -> bool:
    """Return whether nodes are a part of a piece that has no other layers."""
    layers = list(filter(flow.is_layer, numbers))
    return bool(layers) and set(numbers) <= set(piece) and layers == list(filter(flow.is_layer, piece))


def _common(flow: Dataflow, numbers: Sequence[int]) -> tuple[str, ...]:
    """Return the innermost module that all these nodes belong to."""
    modules = [flow.modules[number] for number in numbers]
    common: list[str] = []
    for words in zip(*modules, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return tuple(common)


def _name(flow: Dataflow, numbers: Sequence[int]) -> str:
    """Return the innermost module that holds these layers and no others, or else the first and the last of its parts.

    Where names tell nothing of modules, these are the first and the last layer.
    """
    layers = list(filter(flow.is_layer, numbers)) or list(numbers)
    common = _common(flow, layers)
    others = [flow.modules[n] for n in range(len(flow.nodes)) if flow.is_layer(n) and n not in layers]
    if common and not any(module[: len(common)] == common for module in others):
        return ".".join(common)
    ends = [_own_module(flow.modules[number], others) for number in (layers[0], layers[-1])]
    if not all(ends) or (ends[0] == ends[1] and len(layers) > 1):
        ends = [(flow.nodes[number].name,) for number in (layers[0], layers[-1])]
    return " to ".join(dict.fromkeys(".".join(end) for end in ends))


def _own_module(module: tuple[str, ...], others: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the outermost of the modules around a layer that holds none of the other layers."""
    for size in range(1, len(module)):
        if not any(other[:size] == module[:size] for other in others):
            return module[:size]
    return module


def _unique(flow: Dataflow, groups: list[tuple[str, list[int]]]) -> Iterator[Block]:
    """Yield the blocks, each with a name that no block before has."""
    taken: set[str] = set()
    for given, numbers in groups:
        nodes = [flow.nodes[number].name for number in numbers]
        name = given or _name(flow, numbers)
        if name in taken:
            name = f"{name} ({nodes[0]})"
        taken.add(name)
        yield Block(name, tuple(nodes))
