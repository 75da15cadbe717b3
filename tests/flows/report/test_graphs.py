"""The report's ONNX graphs: the operators in an exported file, and the commands that show more of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from flows.report.graphs import graphs
from tasks.caching.store import Store
from tasks.profilers._onnx import operator_counts
from tasks.tables import frames
from tests.support import factory
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from pathlib import Path


def value(name: str) -> onnx.ValueInfoProto:
    """Describe a value of one number, for a graph's inputs and outputs."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])


def network() -> onnx.ModelProto:
    """Two Relu, an Add, and an If whose branches have a Relu and two Neg."""
    node = helper.make_node
    yes = helper.make_graph([node("Relu", ["x"], ["y1"])], "yes", [], [value("y1")])
    no = helper.make_graph([node("Neg", ["x"], ["n"]), node("Neg", ["n"], ["y2"])], "no", [], [value("y2")])
    condition = helper.make_tensor_value_info("if", TensorProto.BOOL, [])
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("If", ["if"], ["y"], then_branch=yes, else_branch=no),
    ]
    return helper.make_model(helper.make_graph(nodes, "g", [value("x"), condition], [value("y")]))


def test_operators_are_counted_as_stored_including_those_in_branches() -> None:
    assert operator_counts(network()) == {"Relu": 3, "Neg": 2, "Add": 1, "If": 1}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """An artifacts folder with one exported file, and tables in which the int8 form made from that file won."""
    store = Store(tmp_path / "store")
    with store.temporary() as folder:
        onnx.save(network(), folder / "model.onnx")
        file = store.put(folder / "model.onnx", "onnx")
    row = factory.rows_of_tables()["variants"][0] | {"benchmark": True}
    missing = {"path": "00/gone.onnx", "sha256": "00", "size_bytes": 1}
    stored = {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes}
    variants = [
        row | {"name": "net/train"},
        row | {"name": "net/train/onnx", "parent": "net/train", "stage": "export", "format": "onnx", **stored},
        row
        | {
            "name": "net/train/onnx/int8",
            "parent": "net/train/onnx",
            "stage": "quantize",
            "format": "onnx",
            "precision": "int8",
            **missing,
        },
    ]
    measurement = {
        "runtime": "eager",
        "device": "cpu",
        "batch_size": 1,
        "status": "ok",
        "pareto": True,
        "latency_median_ms": 1.0,
        "images_per_second": 1000.0,
        "top1": 0.9,
        "size_bytes": 1000,
    }
    candidates = [
        measurement | {"variant": "net/train", "role": "reference"},
        measurement | {"variant": "net/train/onnx/int8", "runtime": "onnxruntime", "role": "winner"},
    ]
    return tmp_path, {"variants": frames.frame("variants", variants), "summary": frames.frame("summary", candidates)}


def test_the_onnx_graphs_of_reference_and_winner_are_drawn_once_or_said_to_be_gone(run: Any) -> None:
    drawn = graphs(*run)
    assert [graph["name"] for graph in drawn] == ["net/train/onnx", "net/train/onnx/int8"]
    assert drawn[0]["chart"].title == "net/train/onnx: 7 operators of 4 types"
    assert "Relu: 3; Neg: 2" in drawn[0]["chart"].svg
    assert "is gone" in drawn[1]["why"]


def test_the_report_gives_the_profile_commands_for_the_exported_variant(run: Any) -> None:
    words = Page(page_of(run[1], factory.study(), exported=graphs(*run))).words
    assert "burnish profile net/train/onnx --run run-1\n" in words
    assert "burnish profile net/train/onnx --run run-1 --netron" in words


def test_a_report_without_an_onnx_form_has_no_section_on_onnx_graphs(run: Any) -> None:
    out, tables = run
    bare = {"summary": tables["summary"].head(1), "variants": tables["variants"].head(1)}
    assert graphs(out, bare) == [] and graphs(out, {}) == []
    assert "ONNX graphs" not in page_of(bare, factory.study(), exported=graphs(out, bare))
