"""Blocks: they hold a network whole, end where one tensor leads on, and have the names of modules."""

from __future__ import annotations

import onnx
import pytest

from tasks.forms.blocks import Block, blocks
from tasks.forms.dataflow import Dataflow, names_of
from tests.support.networks import DECOMPOSED, NETWORKS, graph

SENSITIVE = ("attention", "LayerNorm and residual sums")


def chain_of(model: onnx.ModelProto) -> tuple[list[Block], list[Block]]:
    """Return the blocks that follow each other and hold all nodes, and the others."""
    found = blocks(model)
    order = [node.name for node in Dataflow(model).nodes]
    chain: list[Block] = []
    for block in found:
        done = sum(len(part.nodes) for part in chain)
        if list(block.nodes) == order[done : done + len(block.nodes)]:
            chain.append(block)
    assert [name for block in chain for name in block.nodes] == order
    return chain, [block for block in found if block not in chain]


def ends(model: onnx.ModelProto, block: Block) -> set[str]:
    """Return the tensors that lead out of a block."""
    inside = [node for node, name in zip(model.graph.node, names_of(model.graph), strict=True) if name in block.nodes]
    made = {name for node in inside for name in node.output}
    outside = [node for node in model.graph.node if node not in inside and node.op_type != "Shape"]
    return made & {name for node in outside for name in node.input}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_hold_all_nodes_in_order_and_end_where_one_tensor_leads_on(name: str) -> None:
    model = graph(name)
    chain, others = chain_of(model)
    assert 10 <= len(chain) + len(others) <= 40
    assert len({block.name for block in (*chain, *others)}) == len(chain) + len(others)
    layers = [name for name, node in zip(names_of(model.graph), model.graph.node, strict=True) if is_layer(node)]
    assert set(layers) <= {name for block in chain for name in block.nodes}
    total = sum(len(block.nodes) for block in chain)
    assert max(len(block.nodes) for block in chain) <= 0.15 * total
    if name != "densenet121":
        assert [len(ends(model, block)) for block in chain[:-1]] == [1] * (len(chain) - 1)


def is_layer(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "Gemm", "MatMul")


def test_residual_blocks_are_whole_and_named_by_their_module() -> None:
    names = [block.name for block in blocks(graph("resnet18"))]
    assert names == ["conv1", *(f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)), "fc"]


@pytest.mark.parametrize("dynamo", [False, True])
def test_squeeze_and_excitation_is_a_block_besides(dynamo: bool) -> None:
    """The file of either exporter: one names nodes by their modules, the other has metadata."""
    model = graph("mobilenetv3_small_050", 17, dynamo)
    chain, others = chain_of(model)
    assert {"conv_stem", "blocks.2.1", "blocks.4.2", "conv_head", "classifier"} <= {block.name for block in chain}
    stages = ("0.0", "2.0", "2.1", "2.2", "3.0", "3.1", "4.0", "4.1", "4.2")
    assert [block.name for block in others] == [f"blocks.{stage}.se" for stage in stages]
    kinds = dict(zip(names_of(model.graph), (node.op_type for node in model.graph.node), strict=True))
    for block in others:
        assert [kinds[name] for name in block.nodes[1:]] == ["Conv", "Relu", "Conv", "HardSigmoid"]
        assert kinds[block.nodes[0]] in ("ReduceMean", "GlobalAveragePool")


@pytest.mark.parametrize("opset", [DECOMPOSED, 17])
def test_attention_and_layer_norm_are_blocks_besides(opset: int) -> None:
    model = graph("deit_tiny_patch16_224", opset)
    chain, others = chain_of(model)
    assert [block.name for block in chain] == ["patch_embed.proj", *(f"blocks.{n}" for n in range(12)), "head"]
    assert tuple(block.name for block in others) == SENSITIVE
    kinds = dict(zip(names_of(model.graph), (node.op_type for node in model.graph.node), strict=True))
    attention, norms = [[kinds[name] for name in block.nodes] for block in others]
    assert (attention.count("Softmax"), attention.count("MatMul")) == (12, 24)
    assert (norms.count("LayerNormalization"), norms.count("Sqrt")) == ((25, 0) if opset == 17 else (0, 25))
    # All but the first one follow a residual sum. A LayerNorm in single operators adds twice: its epsilon and its bias.
    assert norms.count("Add") == (24 if opset == 17 else 24 + 2 * 25)


def test_a_densely_connected_network_is_cut_between_its_layers() -> None:
    chain, _ = chain_of(graph("densenet121"))
    names = [block.name for block in chain]
    assert names[0] == "features.conv0 to features.denseblock1.denselayer1"
    assert [name for name in names if "denseblock2" in name] == [
        f"features.denseblock2.denselayer{number}" for number in range(1, 17)
    ]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_without_names_blocks_are_cut_by_the_flow_of_data_alone(name: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graph(name))
    weights = {tensor.name: f"w{number}" for number, tensor in enumerate(model.graph.initializer)}
    tensors = {out: f"t{n}" for n, node in enumerate(model.graph.node) for out in node.output} | weights
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors[name] for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = weights[tensor.name]
    chain, others = chain_of(model)
    assert 10 <= len(chain) <= 24
    assert [len(ends(model, block)) for block in chain[:-1]] == [1] * (len(chain) - 1)
    kinds = dict(zip(names_of(model.graph), (node.op_type for node in model.graph.node), strict=True))
    gates = [gate for gate, kind in kinds.items() if kind == "HardSigmoid"]
    assert len(gates) == (9 if name != "resnet18" else 0)
    for gate in gates:
        # Without names, a branch and what it multiplies may already be a block.
        around = [block for block in (*chain, *others) if gate in block.nodes]
        assert any([kinds[node] for node in block.nodes].count("Conv") == 2 for block in around)
    assert all(block.name.startswith("t") for block in chain)


def test_names_of_tensorflow_are_modules_too() -> None:
    """In a file of tf2onnx, nodes are named by their scopes, which / separates."""
    model = onnx.ModelProto()
    model.CopyFrom(graph("resnet18"))
    for node in model.graph.node:
        node.name = "net" + node.name.replace(".", "_")
    names = [block.name for block in blocks(model)]
    stages = [f"net.layer{stage}.layer{stage}_{number}" for stage in (1, 2, 3, 4) for number in (0, 1)]
    # The last layer's weights have their own name, from which the module is known.
    assert names == ["net.conv1", *stages, "fc"]
