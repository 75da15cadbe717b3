"""Given classifiers have the same scores in burnish's form as in their own, with the smallest change of the graph.

Every case executes the given file on images that the test itself brings into the file's form, and compares.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.forms.canonical import Canonical, canonical
from tasks.forms.given import read_graph
from tasks.records import Preparation, Prepared
from tests.support.given import classifier, executed, node, saved
from tests.support.photos import MEAN, STD, photos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREPARATION = Preparation(image_size=8, mean=MEAN, std=STD)
PIXELS = {"mean": (0.0,), "std": (1 / 255,)}
"""A model with this takes pixels from 0 to 255."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("canonical"), "canonical")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return photos(work, size=8, classes=5)


@pytest.fixture(scope="module")
def images(work: Work, data: Prepared) -> np.ndarray:
    return np.array(load_arrays(work.store, data).images)


def form_of(
    model: onnx.ModelProto, data: Prepared, folder: Path, preparation: Preparation = PREPARATION, **how: Any
) -> tuple[Path, Canonical]:
    file = saved(model, folder / "given", **how)
    return file, canonical(file, read_graph(file), preparation, data, folder)


def operators(path: Path) -> Counter[str]:
    return Counter(made.op_type for made in onnx.load(path).graph.node)


def imagenet(images: np.ndarray) -> np.ndarray:
    return ((images / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def pixels(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def same(scores: np.ndarray) -> np.ndarray:
    return scores


class Case(NamedTuple):
    model: onnx.ModelProto
    preparation: Preparation
    to_input: Callable[[np.ndarray], np.ndarray]
    """Stored images -> what the given file takes."""
    notes: tuple[str, ...]
    """Beginnings of the notes, in order, without those about names."""
    to_scores: Callable[[np.ndarray], np.ndarray] = same
    """The logits of the form -> the scores of the given file."""
    gone: tuple[str, ...] = ()
    """Operators that the form must not have."""


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
TO_CHANNELS_FIRST = node("Transpose", "images", "x", perm=[0, 3, 1, 2])
NHWC = ("n", 8, 8, 3)
EXPONENTIALS = [
    node("Exp", "y", "e"),
    helper.make_node("ReduceSum", ["e", "axes"], ["s"]),
    node("Div", "e s", "scores"),
]
POSITIVE = [
    node("Abs", "y", "e"),
    helper.make_node("ReduceSum", ["e", "axes"], ["s"]),
    node("Div", "e s", "scores"),
]
LAST_AXIS = {"axes": np.array([1], np.int64)}
GREY = node("Concat", "images images images", "x", axis=1)

CASES = {
    "names": Case(classifier(), PREPARATION, imagenet, ()),
    "BGR, straight into a convolution": Case(
        classifier(),
        Preparation(image_size=8, mean=MEAN, std=STD, order="bgr"),
        lambda images: imagenet(images)[:, ::-1],
        ("the weights of its first convolution take the channels as RGB",),
        gone=("Gather",),
    ),
    "BGR, through another operator": Case(
        classifier([node("Relu", "images", "x")]),
        Preparation(image_size=8, mean=MEAN, std=STD, order="bgr"),
        lambda images: imagenet(images)[:, ::-1],
        ("the channels of its input are taken as RGB",),
    ),
    "pixels": Case(
        classifier(),
        Preparation(image_size=8, **PIXELS),
        pixels,
        ("images are normalised by the mean and standard deviation of the data",),
    ),
    "BGR pixels less a mean of each channel, as Caffe": Case(
        classifier(),
        Preparation(image_size=8, order="bgr", mean=(0.5, 0.4, 0.3), std=(1 / 255,)),
        lambda images: (pixels(images) - 255 * np.array([0.5, 0.4, 0.3])[:, None, None])[:, ::-1].astype(np.float32),
        ("images are normalised by", "the channels of its input are taken as RGB"),
    ),
    "channels last, turned round at once": Case(
        classifier([TO_CHANNELS_FIRST], shape=NHWC),
        Preparation(image_size=8, mean=MEAN, std=STD, layout="nhwc"),
        lambda images: np.ascontiguousarray(imagenet(images).transpose(0, 2, 3, 1)),
        ("its input has the channels before height and width",),
        gone=("Transpose",),
    ),
    "channels last, turned round later": Case(
        classifier(
            [node("Relu", "images", "positive"), node("Transpose", "positive", "x", perm=[0, 3, 1, 2])],
            shape=NHWC,
        ),
        Preparation(image_size=8, mean=MEAN, std=STD, layout="nhwc"),
        lambda images: np.ascontiguousarray(imagenet(images).transpose(0, 2, 3, 1)),
        ("its input has the channels before height and width",),
    ),
    "bytes, channels last, BGR": Case(
        classifier(
            [node("Cast", "images", "f", to=FLOAT), node("Transpose", "f", "x", perm=[0, 3, 1, 2])],
            shape=NHWC,
            dtype=TensorProto.UINT8,
        ),
        Preparation(image_size=8, layout="nhwc", order="bgr", **PIXELS),
        lambda images: np.ascontiguousarray(images[..., ::-1]),
        ("images are normalised", "the channels of its input", "its input has the channels", "its input of type uint8"),
        gone=("Transpose", "Cast", "Round"),
    ),
    "bytes that are used as bytes": Case(
        classifier(
            [node("Mod", "images hundred", "rest"), node("Cast", "rest", "x", to=FLOAT)],
            dtype=TensorProto.UINT8,
            constants={"hundred": np.array(100, np.uint8)},
        ),
        Preparation(image_size=8, **PIXELS),
        lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        ("images are normalised by", "its input of type uint8 is float32"),
    ),
    "half precision at both ends": Case(
        classifier(
            [node("Neg", "images", "h"), node("Cast", "h", "x", to=FLOAT)],
            [node("Cast", "y", "scores", to=HALF)],
            dtype=HALF,
            scores=HALF,
        ),
        PREPARATION,
        lambda images: imagenet(images).astype(np.float16),
        ("its output of type float16 is converted", "its input of type float16 is float32"),
    ),
    "double precision at the end": Case(
        classifier(after=[node("Cast", "y", "scores", to=TensorProto.DOUBLE)], scores=TensorProto.DOUBLE),
        PREPARATION,
        imagenet,
        ("its output of type float64 is converted",),
    ),
    "softmax": Case(
        classifier(after=[node("Softmax", "y", "scores", axis=1)]),
        PREPARATION,
        imagenet,
        ("its last Softmax is left out, so that its output is the logits",),
        softmax,
        gone=("Softmax",),
    ),
    "softmax and a conversion": Case(
        classifier(after=[node("Softmax", "y", "q", axis=1), node("Cast", "q", "scores", to=HALF)], scores=HALF),
        PREPARATION,
        imagenet,
        ("its last Softmax is left out", "its output of type float16"),
        softmax,
    ),
    "sigmoid": Case(
        classifier(after=[node("Sigmoid", "y", "scores")]),
        PREPARATION,
        imagenet,
        ("its last Sigmoid is left out",),
        lambda logits: 1 / (1 + np.exp(-logits)),
    ),
    "exponentials over their sum": Case(
        classifier(after=EXPONENTIALS, constants=LAST_AXIS),
        PREPARATION,
        imagenet,
        ("its last Softmax is left out",),
        softmax,
        gone=("Exp",),
    ),
    "probabilities that no softmax makes": Case(
        classifier(after=POSITIVE, constants=LAST_AXIS),
        PREPARATION,
        imagenet,
        ("its output is the logarithm of its probabilities",),
        softmax,
    ),
    "log-probabilities": Case(classifier(after=[node("LogSoftmax", "y", "scores", axis=1)]), PREPARATION, imagenet, ()),
    "scores with two further axes": Case(
        classifier(after=[node("Reshape", "y sizes", "scores")], constants={"sizes": np.array([0, 5, 1, 1], np.int64)}),
        PREPARATION,
        imagenet,
        ("its output has the axes batch and classes alone",),
    ),
    "an output in another order": Case(
        classifier(),
        Preparation(image_size=8, mean=MEAN, std=STD, outputs_of_classes=(4, 2, 0, 1, 3)),
        imagenet,
        ("its scores are in the order of the images' classes",),
        lambda logits: logits[:, [2, 3, 1, 4, 0]],
    ),
    "grey": Case(
        classifier([GREY], shape=("n", 1, 8, 8)),
        Preparation(image_size=8, order="grey", mean=(0.5,), std=(0.25,)),
        lambda images: ((images @ [0.299, 0.587, 0.114] / 255 - 0.5) / 0.25)[:, None].astype(np.float32),
        ("images of 3 channels are turned into the 1 that it takes",),
    ),
    "any height and width": Case(
        classifier(shape=("n", 3, "h", "w")), PREPARATION, imagenet, ("its input has 3x8x8 per image, which was open",)
    ),
    "a batch of any size, written as 0": Case(
        classifier(shape=(0, 3, 8, 8)), PREPARATION, imagenet, ("its input has 3x8x8 per image",)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form_gives_normalised_rgb_images_the_scores_of_the_given_file(
    name: str, data: Prepared, images: np.ndarray, tmp_path: Path
) -> None:
    case = CASES[name]
    file, form = form_of(case.model, data, tmp_path, case.preparation)
    logits = executed(form.path, normalise(images, data.mean, data.std))
    if name.startswith("a batch of any size"):
        # ONNX Runtime would take no image.
        case.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
        onnx.save(case.model, file)
    expected = executed(file, case.to_input(images)).reshape(len(images), -1)
    tolerance = 3e-3 if expected.dtype == np.float16 or "half" in name else 1e-4
    np.testing.assert_allclose(case.to_scores(logits), expected, rtol=0, atol=tolerance * abs(expected).max())
    assert logits.std() > 0.01, "scores that are all alike would prove nothing"

    model = onnx.load(form.path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    batch, *sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.HasField("dim_value"), [size.dim_value for size in sizes]) == (False, [3, 8, 8])
    assert model.graph.input[0].type.tensor_type.elem_type == FLOAT
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 5
    assert not operators(form.path).keys() & set(case.gone)
    notes = [note for note in form.notes if not re.fullmatch(r"its (input|output) \w+ is called (input|logits)", note)]
    assert len(notes) == len(case.notes), form.notes
    assert all(note.startswith(start) for note, start in zip(notes, case.notes, strict=True)), form.notes


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
        assert operators(form.path) == operators_of_network()
        assert form.output == output


def operators_of_network() -> Counter[str]:
    return Counter(made.op_type for made in classifier().graph.node)


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
    np.testing.assert_allclose(softmax(logits), executed(file, imagenet(images)), atol=1e-5)
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
        "ONNX Runtime does not open the file",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(why: str, work: Work, tmp_path: Path) -> None:
    model, images, preparation, message = REFUSED[why]
    data = photos(work, **({"size": 8, "classes": 5} | images))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        form_of(model, data, tmp_path, preparation)
    assert "\n" not in str(raised.value)
