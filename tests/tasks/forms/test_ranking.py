"""The ranking of blocks: a block that int8 harms comes first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from tasks import runtimes
from tasks.forms import ranking
from tasks.forms.blocks import Block, blocks
from tasks.forms.dataflow import names_of
from tasks.forms.ranking import Gain, _order, _Saving, rank
from tests.support.networks import graph, images, quantized

NETWORK = "mobilenetv3_small_050"
CULPRIT = "blocks.3.0"
MEASURED = ("conv_stem", "blocks.2.1", CULPRIT, "classifier", "blocks.3.1.se")


@pytest.fixture(autouse=True)
def some_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further block takes a second."""
    monkeypatch.setattr(ranking, "blocks", lambda model: tuple(b for b in blocks(model) if b.name in MEASURED))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An int8 form, in which the weights of one block's first layer have the wrong sign, and its float graph."""
    folder = tmp_path_factory.mktemp("ranking")
    fp32 = graph(NETWORK)
    int8 = quantized(fp32, "u8s8", folder)
    block = next(block for block in blocks(fp32) if block.name == CULPRIT)
    layer = next(n for n, name in zip(fp32.graph.node, names_of(fp32.graph), strict=True) if name == block.nodes[0])
    weights = next(node for node in int8.graph.node if layer.output[0] in node.output).input[1]
    stored = next(node for node in int8.graph.node if weights in node.output).input[0]
    tensor = next(tensor for tensor in int8.graph.initializer if tensor.name == stored)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), stored))
    onnx.save(int8, folder / "int8.onnx")
    return folder / "int8.onnx", folder / "fp32.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_block_that_int8_harms_most_is_found(
    files: tuple[Path, Path], runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    most = 0
    library = runtimes.load(runtime)
    original = library.open

    def counted(*arguments: Any) -> Any:
        nonlocal most
        session = original(*arguments)
        close = session.close
        opened.append(session)
        most = max(most, len(opened))
        session.close = lambda: (opened.remove(session), close())
        return session

    monkeypatch.setattr(library, "open", counted)
    monkeypatch.setattr(ranking, "by_turns", lambda sessions, image: ([100.0] * 5, [103.0, 101.0, 102.0, 102.0, 102.0]))
    names: list[str] = []
    gains = rank(
        *files, runtime, images(64), tmp_path, lambda done, total, name: names.append(f"{done}/{total} {name}")
    )
    found = ranking.blocks(graph(NETWORK))
    assert len(found) == len(MEASURED)
    assert names == [f"{number + 1}/{len(found)} {block.name}" for number, block in enumerate(found)]
    assert sorted(gain.block.name for gain in gains) == sorted(block.name for block in found)
    assert not opened and most == 2
    best = gains[0]
    assert best.block.name == CULPRIT and best.latency == pytest.approx(1.02)
    whole = best.divergence + best.saved
    assert best.saved > 0.5 * whole
    assert all(gain.divergence + gain.saved == pytest.approx(whole, abs=1e-6) for gain in gains)
    assert all(math.isnan(gain.latency) or gain.saved > 0 for gain in gains)
    assert math.isnan(min(gains, key=lambda gain: gain.saved).latency)


def test_images_are_spread_and_fill_batches() -> None:
    assert list(ranking._spread(images(100), 256).rows[[0, 1, -1]]) == [0, 1, 99]
    assert len(ranking._spread(images(100), 256)) == 96
    assert len(ranking._spread(images(20), 256)) == 20
    assert len(ranking._spread(images(600), 256)) == 256


def test_blocks_that_save_most_per_cost_come_first_and_none_is_quite_free() -> None:
    def cost(name: str, saved: float, latency: float, is_slower: bool, is_sure: bool = True) -> Any:
        return _Saving(Block(name, ()), 0.1, saved, is_sure), latency, is_slower

    costs = [
        cost("nothing", 0.5, math.nan, False, False),
        cost("dear", 0.3, 1.2, True),
        cost("cheap", 0.1, 1.02, True),
        cost("free", 0.01, 1.01, False),
        cost("faster", 0.02, 0.97, False),
        cost("harmful", -0.5, math.nan, False, False),
    ]
    order = [saving.block.name for saving, _, _ in sorted(costs, key=_order)]
    assert order == ["cheap", "faster", "free", "dear", "nothing", "harmful"]


def test_a_block_that_the_runtime_refuses_is_left_out(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "blocks", lambda model: (Block("no such", ("nowhere",)), blocks(model)[0]))
    gains = rank(*files, "onnxruntime", images(32), tmp_path, lambda *progress: None)
    assert [gain.block.name for gain in gains] == ["conv_stem"]
    assert isinstance(gains[0], Gain)
