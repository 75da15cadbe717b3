"""How a given model wants its images is found by trying it on labelled images, unless they do not show it clearly."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.caching.work import Work
from tasks.inspect import inspect
from tasks.records import Data, Model, Preparation
from tests.support.colours import COLOURS, SIZE, colour_images, colour_model

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5,), "std": (0.5,)}
UNIT = {"mean": (0.0,), "std": (1.0,)}
BYTES = {"mean": (0.0,), "std": (1 / 255,)}
CAFFE = {"mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "std": (1 / 255,) * 3}
ALPHABETICAL = tuple(list(COLOURS).index(name) for name in sorted(COLOURS))
"""For each output of a model whose classes are in alphabetical order, the class of the data."""
REVERSED = tuple(range(len(COLOURS)))[::-1]
TIMM = {"architecture": "net", "pretrained_cfg": {**IMAGENET, "input_size": [3, SIZE, SIZE], "crop_pct": 1.0}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(path=str(colour_images(tmp_path_factory.mktemp("images") / "train.parquet")))


def found(folder: Path, data: Data, size: int | None = SIZE, **wanted: Any) -> Preparation:
    """Return what is found out about a model that wants its images so."""
    file = colour_model(folder / "net.onnx", size, **wanted)
    return inspect(Work.at(folder / "out"), Model(file=str(file)), data).preparation


WAYS: dict[str, dict[str, Any]] = {
    "plain": IMAGENET,
    "BGR": {"order": "bgr", **IMAGENET},
    "0 to 255": BYTES,
    "0 to 1": UNIT,
    "NHWC": {"layout": "nhwc", **IMAGENET},
    "-1 to 1": HALF,
    "alphabetical classes": {"outputs": ALPHABETICAL, **IMAGENET},
    "any size": {"size": None, **IMAGENET},
    "BGR, 0 to 255": {"order": "bgr", **BYTES},
    "Caffe": {"order": "bgr", **CAFFE},
    "NHWC, -1 to 1": {"layout": "nhwc", **HALF},
    "NHWC, BGR": {"layout": "nhwc", "order": "bgr", **UNIT},
    "BGR, alphabetical classes": {"order": "bgr", "outputs": ALPHABETICAL, **UNIT},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_that_nothing_states_is_found(way: str, images: Data, tmp_path: Path) -> None:
    wanted = {"order": "rgb", "layout": "nchw", **WAYS[way]}
    preparation = found(tmp_path, images, **wanted)
    assert (preparation.order, preparation.layout) == (wanted["order"], wanted["layout"])
    assert preparation.mean == pytest.approx(wanted["mean"])
    assert preparation.std == pytest.approx(wanted["std"])
    assert (preparation.image_size, preparation.resize) == (SIZE, None)
    expected = tuple(np.argsort(wanted["outputs"]).tolist()) if "outputs" in wanted else None
    assert preparation.outputs_of_classes == expected
    assert preparation.told_by["mean"] == "tried on 200 images"


def test_another_order_of_classes_is_found_by_a_file_of_labels_beside_the_model(images: Data, tmp_path: Path) -> None:
    names = list(COLOURS)
    (tmp_path / "labels.txt").write_text("\n".join(names[index].upper() for index in REVERSED))
    preparation = found(tmp_path, images, outputs=REVERSED, **UNIT)
    assert preparation.outputs_of_classes == REVERSED
    assert preparation.told_by["outputs_of_classes"] == "labels.txt beside the file"


def test_a_statement_that_the_images_contradict_is_overruled_with_a_warning(
    images: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    preparation = found(tmp_path, images, order="bgr", **BYTES)
    assert (preparation.order, preparation.std) == ("bgr", (1 / 255,))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("the images contradict config.json beside the file (order) and config.json")
    assert "top-1 is 0." in warning and "95 % between" in warning


def test_a_statement_that_fits_is_taken_and_named(images: Data, tmp_path: Path) -> None:
    told = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | {"mean": [0.49, 0.46, 0.41]}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    preparation = found(tmp_path, images, **IMAGENET)
    assert preparation.mean == (0.49, 0.46, 0.41)
    assert preparation.told_by["mean"] == preparation.told_by["order"] == "config.json beside the file"


def test_settings_are_never_overruled(images: Data, tmp_path: Path) -> None:
    file = colour_model(tmp_path / "net.onnx", None, **UNIT)
    model = Model(file=str(file), order="rgb")
    data = images.model_copy(update={"mean": (0.1,), "std": (0.9,), "image_size": 12, "resize": 14})
    preparation = inspect(Work.at(tmp_path / "out"), model, data).preparation
    assert (preparation.order, preparation.mean, preparation.std) == ("rgb", (0.1,), (0.9,))
    assert (preparation.image_size, preparation.resize) == (12, 14)
    assert preparation.told_by["order"] == "models.order"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"layout": "nhwc"}, {}, 'layout = "nhwc" does not fit the input, which can be nchw'),
        ({"order": "grey"}, {}, 'order = "grey" does not fit the input, whose order is rgb or bgr'),
        ({}, {"image_size": 8}, "data.image_size = 8 does not fit the model, which takes 16 pixels"),
        ({"labels": "absent.txt"}, {}, "absent.txt cannot be read: No such file or directory"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(
    model: dict[str, Any], data: dict[str, Any], message: str, images: Data, tmp_path: Path
) -> None:
    file = colour_model(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=message) as error:
        inspect(Work.at(tmp_path / "out"), Model(file=str(file), **model), images.model_copy(update=data))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_network_is_refused(seed: int, images: Data, tmp_path: Path) -> None:
    weights = np.random.default_rng(seed).normal(0, 1, (3, len(COLOURS)))
    refusals = "near chance however images are prepared|not stand for the classes in any order|do not show which"
    with pytest.raises(ValueError, match=refusals) as error:
        found(tmp_path, images, weights=weights)
    assert "\n" not in str(error.value)


def test_an_unknown_order_of_classes_is_refused_and_the_order_that_fits_is_said(images: Data, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="the outputs do not stand for the classes in any order that was tried"
    ) as error:
        found(tmp_path, images, outputs=REVERSED, **UNIT)
    message = str(error.value)
    assert "in this one: red is output 11, blue is output 10, green is output 9" in message
    assert "give models.labels" in message and "\n" not in message


def test_where_two_ways_are_equally_good_the_user_is_asked(tmp_path: Path) -> None:
    path = colour_images(tmp_path / "train.parquet", swapped=0.5)
    with pytest.raises(ValueError, match="200 labelled images do not show which preparation is right") as error:
        found(tmp_path, Data(path=str(path)), **UNIT)
    message = str(error.value)
    assert "RGB NCHW, 16 pixels, mean 0, std 1" in message and "BGR NCHW, 16 pixels, mean 0, std 1" in message
    assert message.endswith("; give models.order (--order), or more images")


def test_ways_that_give_the_same_answers_count_as_the_same_and_the_more_usual_is_taken(
    images: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "burnish")
    preparation = found(tmp_path, images, mean=(0.498,), std=(0.502,))
    assert (preparation.mean, preparation.std) == ((0.5,), (0.5,))
    (line,) = [record.getMessage() for record in caplog.records if "more usual" in record.getMessage()]
    assert line.startswith("200 images do not tell RGB NCHW, 16 pixels, mean 0.5, std 0.5")
    assert "mean 0.498, std 0.502" in line


def test_sources_that_contradict_each_other_are_said_and_the_images_decide(
    images: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    preparation = found(tmp_path, images, **HALF)
    assert preparation.mean == (0.5,)
    assert preparation.told_by["mean"] == "preprocessor_config.json beside the file"
    assert "sources contradict each other on the normalisation: config.json beside the file says" in caplog.text
