"""Whole files of given classifiers: kept byte for byte where they may be, old ones converted, wrong ones refused."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.forms.canonical import canonical
from tasks.forms.given import read_graph
from tasks.records import Preparation, Prepared
from tests.support.given import PREPARATION, classifier, executed, form_of, node, saved
from tests.support.photos import MEAN, STD, photos

if TYPE_CHECKING:
    from pathlib import Path

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("files"), "files")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return photos(work, size=8, classes=5)


@pytest.fixture(scope="module")
def images(work: Work, data: Prepared) -> np.ndarray:
    return np.array(load_arrays(work.store, data).images)


def imagenet(images: np.ndarray) -> np.ndarray:
    return ((images / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(made.op_type for made in model.graph.node)


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with burnish's names for its input and output."""
    for made in model.graph.node:
        made.input[:] = ["input" if name == "x" else name for name in made.input]
        made.output[:] = ["logits" if name == "y" else name for name in made.output]
    model.graph.input[0].name, model.graph.output[0].name = "input", "logits"
    return model


def test_a_file_that_has_the_form_is_kept_byte_for_byte(data: Prepared, tmp_path: Path) -> None:
    file, form = form_of(named(classifier()), data, tmp_path)
    assert (form.path.read_bytes(), form.notes) == (file.read_bytes(), ())


@pytest.mark.parametrize("place", ["weights.data", "deep/er/weights.data"])
def test_external_weights_are_kept_beside_the_file(place: str, data: Prepared, tmp_path: Path) -> None:
    how: dict[str, Any] = {"save_as_external_data": True, "location": place, "size_threshold": 0}
    (tmp_path / "given" / place).parent.mkdir(parents=True)
    file, form = form_of(named(classifier()), data, tmp_path, **how)
    assert form.notes == ()
    for name in ("given.onnx", place):
        kept = form.path / ("model.onnx" if name == "given.onnx" else name)
        assert kept.read_bytes() == (file.parent / name).read_bytes()


def test_external_weights_in_a_cache_are_read_where_they_are(
    data: Prepared, images: np.ndarray, tmp_path: Path
) -> None:
    cache = tmp_path / "given" / "blobs"
    cache.mkdir(parents=True)
    file = saved(classifier(), tmp_path / "given", save_as_external_data=True, location="w", size_threshold=0)
    expected = executed(file, imagenet(images))
    (file.parent / "w").rename(cache / "abc")
    (file.parent / "w").symlink_to("blobs/abc")
    form = canonical(file, read_graph(file), PREPARATION, data, tmp_path)
    logits = executed(form.path, normalise(images, data.mean, data.std))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * abs(expected).max())


def test_of_several_outputs_the_named_one_is_kept_and_what_only_others_need_is_removed(
    data: Prepared, tmp_path: Path
) -> None:
    model = classifier()
    more = [node("MatMul", "p other", "z"), node("Softmax", "y", "probabilities", axis=1)]
    model.graph.node.extend(more)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 5), np.float32), "other"))
    for name in ("z", "probabilities"):
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, ["n", 5]))
    with pytest.raises(ValueError, match="several of its outputs have a score per class"):
        form_of(model, data, tmp_path)
    for output in ("y", "probabilities"):
        chosen = Preparation(image_size=8, mean=MEAN, std=STD, output=output)
        form = form_of(model, data, tmp_path / output, chosen)[1]
        assert form.notes[0] == f"of its 3 outputs, {output} alone is kept"
        assert operators(onnx.load(form.path)) == operators(classifier())
        assert form.output == output


def test_a_tensor_of_the_graph_that_has_burnishs_name_is_renamed(
    data: Prepared, images: np.ndarray, tmp_path: Path
) -> None:
    model = classifier([node("Relu", "images", "input"), node("Neg", "input", "x")], [node("Neg", "logits", "scores")])
    made = next(one for one in model.graph.node if one.op_type == "MatMul")
    made.output[0] = "logits"
    file, form = form_of(model, data, tmp_path)
    expected = executed(file, imagenet(images))
    np.testing.assert_allclose(executed(form.path, imagenet(images)), expected, atol=1e-4 * abs(expected).max())
    assert form.notes == ("its output scores is called logits", "its input images is called input")


def test_images_of_one_channel_fit_a_model_of_three(work: Work, tmp_path: Path) -> None:
    data = photos(work, size=8, classes=5, channels=1)
    grey = np.array(load_arrays(work.store, data).images)
    file, form = form_of(classifier(), data, tmp_path)
    expected = executed(file, imagenet(np.repeat(grey, 3, axis=3)))
    logits = executed(form.path, normalise(grey, data.mean, data.std))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())


def test_grey_images_fit_a_grey_model(work: Work, tmp_path: Path) -> None:
    data = photos(work, size=8, classes=5, channels=1)
    grey = np.array(load_arrays(work.store, data).images)
    model = classifier([node("Concat", "images images images", "x", axis=1)], shape=("n", 1, 8, 8))
    told = Preparation(image_size=8, order="grey", mean=(0.0,), std=(1 / 255,))
    file, form = form_of(model, data, tmp_path, told)
    expected = executed(file, grey.transpose(0, 3, 1, 2).astype(np.float32))
    logits = executed(form.path, normalise(grey, data.mean, data.std))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())
    assert onnx.load(form.path).graph.input[0].type.tensor_type.shape.dim[1].dim_value == 1


def test_functions_of_the_file_are_written_out_where_the_graph_changes(
    data: Prepared, images: np.ndarray, tmp_path: Path
) -> None:
    model = classifier([helper.make_node("Twice", ["images"], ["x"], domain="own")])
    opset = helper.make_opsetid("", 17)
    added = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [added], [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    file, form = form_of(model, data, tmp_path)
    expected = executed(file, imagenet(images))
    np.testing.assert_allclose(executed(form.path, imagenet(images)), expected, atol=1e-5 * abs(expected).max())
    assert operators(onnx.load(form.path))["Add"] == 1


def as_opset(model: onnx.ModelProto, opset: int, ir_version: int) -> onnx.ModelProto:
    """The network in an old operator set, whose weights are inputs."""
    model.opset_import[0].version = opset
    model.ir_version = ir_version
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    return model


def test_an_old_operator_set_is_converted_and_weights_listed_as_inputs_become_constants(
    data: Prepared, images: np.ndarray, tmp_path: Path
) -> None:
    model = as_opset(classifier(after=[node("Softmax", "y", "scores", axis=1)]), opset=9, ir_version=3)
    file, form = form_of(model, data, tmp_path)
    logits = executed(form.path, normalise(images, data.mean, data.std))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, executed(file, imagenet(images)), atol=1e-5)
    assert form.notes[:3] == (
        "2 weights that were listed as inputs are constants",
        "its operator set 9 was converted to 18",
        "its last Softmax is left out, so that its output is the logits",
    )
    changed = onnx.load(form.path)
    assert (changed.opset_import[0].version, len(changed.graph.input)) == (18, 1)


def test_an_old_operator_set_that_cannot_be_converted_stays_and_this_is_said(data: Prepared, tmp_path: Path) -> None:
    # The converter knows no operators of other libraries.
    fused = helper.make_node("Gelu", ["images"], ["x"], domain="com.microsoft")
    model = classifier([fused])
    model.opset_import[0].version = 11
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    form = form_of(model, data, tmp_path)[1]
    assert form.notes[0].startswith("its operator set 11, of which there may be no int8 forms, was not converted: ")
    assert onnx.load(form.path).opset_import[0].version == 11


def test_operators_out_of_order_are_sorted(data: Prepared, images: np.ndarray, tmp_path: Path) -> None:
    model = named(classifier())
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    file, form = form_of(model, data, tmp_path)
    assert form.notes == ("its operators are in the order of their execution",)
    assert [made.op_type for made in onnx.load(form.path).graph.node] == [made.op_type for made in nodes[::-1]]
    expected = executed(file, imagenet(images))
    np.testing.assert_allclose(executed(form.path, imagenet(images)), expected, atol=1e-5 * abs(expected).max())


REFUSED = {
    "classes": (
        classifier(),
        {"classes": 4},
        PREPARATION,
        "its output y has 5 scores per image, and the images have 4 classes; name a text file with a class per line",
    ),
    "columns": (
        classifier(),
        {},
        Preparation(image_size=8, mean=MEAN, std=STD, outputs_of_classes=(0, 1, 2, 3, 7)),
        "its output y has 5 scores per image, of which 5 were assigned to the 5 classes of the images, up to number 7",
    ),
    "size": (
        classifier(),
        {"size": 16},
        PREPARATION,
        "its input x has 3x8x8 per image, and the images are prepared with 16 pixels; leave data.image_size out",
    ),
    "layout": (
        classifier(),
        {},
        Preparation(image_size=8, mean=MEAN, std=STD, layout="nhwc"),
        "its input x has 3x8x8 per image, which is no nhwc of 3 channels; set `layout` and `order`",
    ),
    "not finite": (
        classifier(after=[node("Log", "y", "scores")]),
        {},
        PREPARATION,
        "its output scores is not finite for some images of noise",
    ),
    "not executed": (
        classifier([node("Gelu", "images", "x")]),
        {},
        PREPARATION,
        "ONNX Runtime does not open the file: This is an invalid model.",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(why: str, work: Work, tmp_path: Path) -> None:
    model, images, preparation, message = REFUSED[why]
    data = photos(work, **({"size": 8, "classes": 5} | images))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        form_of(model, data, tmp_path, preparation)
    assert "\n" not in str(raised.value)
