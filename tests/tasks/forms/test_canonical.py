"""Given classifiers have the same scores in burnish's form as in their own, with the smallest change of the graph.

Every case executes the given file on images that the test itself brings into the file's form, and compares.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.records import Preparation, Prepared
from tests.support.given import PREPARATION, classifier, executed, form_of, node
from tests.support.photos import MEAN, STD, photos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
        ("images are normalised by", "the weights of its first convolution take"),
        gone=("Gather",),
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
        ("images are normalised", "the weights of its first", "its input has the channels", "its input of type uint8"),
        gone=("Transpose", "Cast", "Round", "Gather"),
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
        classifier(shape=(0, 3, 8, 8)), PREPARATION, imagenet, ("its batch size, which was written as 0, is free",)
    ),
    "no shape at all": Case(classifier(shape=None), PREPARATION, imagenet, ("its input has 3x8x8 per image, which",)),
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
