"""What is read of an ONNX file that a user gives, and which files are refused in one line that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.forms.given import ScoreOutput, layouts, read_graph, score_output
from tests.support.given import classifier, node, saved
from tests.support.models import network

if TYPE_CHECKING:
    from pathlib import Path


def test_a_graphs_input_outputs_metadata_and_opset_are_read(tmp_path: Path) -> None:
    model = classifier(after=[node("Softmax", "y", "scores", axis=1)], shape=(2, 3, 8, 8))
    helper.set_model_props(model, {"author": "somebody"})
    graph = read_graph(saved(model, tmp_path))
    assert (graph.input, graph.dtype, graph.batch, graph.sizes) == ("x", "float32", 2, (3, 8, 8))
    assert graph.outputs == (ScoreOutput(name="scores", classes=5, probabilities=True),)
    assert (graph.metadata, graph.opset) == ({"author": "somebody"}, 17)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("n", 3, 8, 8), [("nchw", 3, 8)]),
        (("n", 8, 8, 3), [("nhwc", 3, 8)]),
        (("n", 1, 8, 8), [("nchw", 1, 8)]),
        (("n", 3, "h", "w"), [("nchw", 3, None)]),
        (("n", "h", 8, 3), [("nhwc", 3, 8)]),
        (("n", "c", 8, 8), [("nchw", 3, 8), ("nchw", 1, 8)]),
        (("n", "a", "b", "c"), [("nchw", 3, None), ("nhwc", 3, None), ("nchw", 1, None), ("nhwc", 1, None)]),
        (None, [("nchw", 3, None), ("nhwc", 3, None), ("nchw", 1, None), ("nhwc", 1, None)]),
    ],
)
def test_layouts_are_those_that_the_sizes_allow(
    shape: tuple[Any, ...] | None, expected: list[tuple[str, int, int | None]], tmp_path: Path
) -> None:
    assert list(layouts(read_graph(saved(network(shape=shape), tmp_path)))) == expected


@pytest.mark.parametrize("shape", [("n", 3, 8, 6), ("n", 4, 8, 8), ("n", 3, 8), ("n", 16), ("n", 3, 8, 8, 8)])
def test_an_input_that_takes_no_square_images_is_refused(shape: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="burnish optimizes classifiers of square images") as raised:
        read_graph(saved(network(shape=shape), tmp_path))
    assert "its input x has batch" in str(raised.value)


def one_node(kind: str, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> onnx.ModelProto:
    made = helper.make_node(kind, [value.name for value in inputs], [output.name])
    graph = helper.make_graph([made], "g", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tensor(name: str, dtype: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


IMAGES = tensor("x", TensorProto.FLOAT, ["n", 3, 8, 8])
REFUSED = {
    "two inputs": (
        one_node("Add", [IMAGES, tensor("mask", TensorProto.FLOAT, [3, 8, 8])], tensor("y", TensorProto.FLOAT, None)),
        r"it has 2 inputs \(x, mask\); models of one are measured",
    ),
    "a sequence": (
        one_node(
            "SequenceLength",
            [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
            tensor("y", TensorProto.INT64, []),
        ),
        "its input x is of type sequence",
    ),
    "text tokens": (
        one_node("Identity", [tensor("ids", TensorProto.INT64, ["n", 128])], tensor("y", TensorProto.INT64, None)),
        "none of its outputs has a score per class",
    ),
    "strings": (
        one_node("Identity", [tensor("s", TensorProto.STRING, ["n", 1])], tensor("y", TensorProto.STRING, None)),
        "its input s is of type STRING",
    ),
    "a detector": (
        one_node("Relu", [IMAGES], tensor("boxes", TensorProto.FLOAT, ["n", 3, 8, 8])),
        r"none of its outputs has a score per class, that is batch x classes of floats: boxes \(\?x3x8x8, float\)",
    ),
    "the class alone": (
        one_node("ArgMax", [IMAGES], tensor("best", TensorProto.INT64, ["n", 1, 8, 8])),
        r"none of its outputs .* best \(\?x1x8x8, int64\); burnish optimizes classifiers",
    ),
    "no batch": (
        one_node("Relu", [tensor("x", TensorProto.FLOAT, [])], tensor("y", TensorProto.FLOAT, [])),
        "its input x has no batch axis",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_of_another_kind_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    model, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as raised:
        read_graph(saved(model, tmp_path))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value), "the caller names the file"


def test_a_file_in_another_format_is_refused_with_how_to_get_an_onnx_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="is not a model"):
        read_graph(file)
    file.write_text('{"milliseconds": [1.0]}')
    with pytest.raises(ValueError, match=r"an ONNX file is needed: export it again with torch.onnx.export"):
        read_graph(file)
    with pytest.raises(ValueError, match="no such file"):
        read_graph(tmp_path / "missing.onnx")


def two_outputs(classes: int = 5) -> onnx.ModelProto:
    """A network that returns its scores for five classes and the four features that they are computed from."""
    model = classifier()
    features = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 4])
    model.graph.output.extend([features, helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", 4, 6, 6])])
    return model


def test_of_several_outputs_the_one_with_a_score_per_class_is_taken_and_said(tmp_path: Path) -> None:
    graph = read_graph(saved(two_outputs(), tmp_path))
    assert [one.name for one in graph.outputs] == ["y", "p"]
    output, note = score_output(graph, "", 5)
    assert (output.name, note) == ("y", "of its outputs (y (5 scores), p (4 scores)) the one with 5 scores is taken")
    assert score_output(graph, "p", 5) == (graph.outputs[1], "")
    with pytest.raises(ValueError, match=r"several of its outputs have a score per class: y \(5 scores\), p \(4 scor"):
        score_output(graph, "", 3)
    with pytest.raises(ValueError, match=r"it has no output 'z' with a score per class; it has y \(5 scores\), p"):
        score_output(graph, "z", 5)


@pytest.mark.parametrize("shape", [(1, 1), ()])
def test_scores_with_further_axes_of_one_element_count_as_scores(shape: tuple[int, ...], tmp_path: Path) -> None:
    sizes = np.array([0, 5, *shape], np.int64)
    model = classifier(after=[node("Reshape", "y sizes", "scores")], constants={"sizes": sizes})
    (output,) = read_graph(saved(model, tmp_path)).outputs
    assert (output.name, output.classes, output.probabilities) == ("scores", 5, False)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_open(size: int, tmp_path: Path) -> None:
    graph = read_graph(saved(network(shape=(size, 3, 8, 8)), tmp_path))
    assert (graph.batch, graph.sizes) == (None, (3, 8, 8))
