"""What files, metadata and libraries state of a model's preparation is read as they mean it, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.caching.work import Work
from tasks.forms._statements import Statement, read_beside, statements
from tasks.forms.description import entries_of
from tests.support.digits import digits

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PROCESSOR = {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]}


def stated(folder: Path, metadata: dict[str, str] | None = None, name: str = "net", **files: Any) -> list[Statement]:
    """Return what is stated of folder/net.onnx, beside which these files lie; an underscore stands for the dot."""
    for key, content in files.items():
        path = folder / ".".join(key.rsplit("_", 1))
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return statements(folder / "net.onnx", metadata or {}, name)


def test_the_metadata_that_burnish_writes_into_its_exports_states_everything(tmp_path: Path) -> None:
    about = {"classes": ("cat", "dog"), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "image_size": 64}
    data = digits(Work.at(tmp_path / "out")).model_copy(update=about | {"channels": 3})
    (statement,) = stated(tmp_path, entries_of(data))
    assert statement == Statement(
        source="the file's metadata",
        order="rgb",
        layout="nchw",
        image_size=64,
        normalisation=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        labels=("cat", "dog"),
    )


def test_the_image_metadata_that_onnx_defines_is_read(tmp_path: Path) -> None:
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    (statement,) = stated(tmp_path, metadata)
    assert (statement.order, statement.normalisation) == ("bgr", ((0.0,), (1 / 255,)))


@pytest.mark.parametrize("nested", [True, False])
def test_the_config_of_timm_is_read(nested: bool, tmp_path: Path) -> None:
    told = {**IMAGENET, "input_size": [3, 288, 288], "crop_pct": 0.95, "interpolation": "bicubic"}
    config = {"architecture": "resnet50", "label_names": ["n01440764", "n01443537"]}
    (statement,) = stated(tmp_path, config_json=config | ({"pretrained_cfg": told} if nested else told))
    assert (statement.order, statement.image_size, statement.resize) == ("rgb", 288, 303)
    assert statement.normalisation == (tuple(IMAGENET["mean"]), tuple(IMAGENET["std"]))
    assert statement.labels == ("n01440764", "n01443537")
    assert statement.source == "config.json beside the file"


PROCESSORS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int | None, int | None]]] = {
    "ViT": (
        {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        {"mean": [0.5] * 3, "std": [0.5] * 3},
        (224, None),
    ),
    "both sides": (
        PROCESSOR | {"size": {"height": 384, "width": 384}, "rescale_factor": 1 / 255},
        IMAGENET,
        (384, None),
    ),
    "ResNet, a crop by its share": (
        PROCESSOR | {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
        IMAGENET,
        (224, 256),
    ),
    "a crop by its size": (
        PROCESSOR
        | {"size": {"shortest_edge": 248}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
        IMAGENET,
        (224, 248),
    ),
    "no crop": (PROCESSOR | {"size": 256, "crop_size": 224, "do_center_crop": False}, IMAGENET, (256, None)),
    "pixels from 0 to 255": (
        {"do_rescale": False, "do_normalize": False},
        {"mean": [0.0], "std": [1 / 255]},
        (None, None),
    ),
    "pixels from 0 to 255, normalised": (
        {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
        IMAGENET,
        (None, None),
    ),
    "-1 to 1 by an offset": (
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
        {"mean": [0.5], "std": [0.5]},
        (None, None),
    ),
    "0 to 1": (PROCESSOR | {"do_normalize": False, "do_rescale": True}, {"mean": [0.0], "std": [1.0]}, (None, None)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_processor_of_transformers_is_read_as_it_computes(name: str, tmp_path: Path) -> None:
    config, expected, sizes = PROCESSORS[name]
    (statement,) = stated(tmp_path, preprocessor_config_json=config)
    assert statement.normalisation is not None
    pixels = np.array([0, 100, 255])[:, None] / 255
    mean, std = map(np.array, statement.normalisation)
    scaled = (pixels - mean) / std
    assert np.broadcast_to(scaled, (3, 3)) == pytest.approx((pixels - expected["mean"]) / expected["std"] * np.ones(3))
    assert (statement.image_size, statement.resize, statement.order) == (*sizes, "rgb")


def test_a_processor_that_flips_the_channels_states_bgr(tmp_path: Path) -> None:
    config = {"do_flip_channel_order": True, "do_normalize": False, "do_rescale": True}
    assert [statement.order for statement in stated(tmp_path, preprocessor_config_json=config)] == ["bgr"]


def test_names_of_classes_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(number): f"class {number}" for number in (2, 10, 0, 1, *range(3, 10))}
    (statement,) = stated(tmp_path, config_json={"id2label": names})
    assert statement.labels == tuple(f"class {number}" for number in range(11))
    assert stated(tmp_path, config_json={"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) == []


def test_a_file_of_labels_beside_the_model_is_read(tmp_path: Path) -> None:
    (statement,) = stated(tmp_path, labels_txt="\ufeffcat\n dog \n\n")
    assert statement == Statement(source="labels.txt beside the file", labels=("cat", "dog"))
    assert read_beside(tmp_path / "net.onnx") == (tmp_path / "labels.txt",)


def test_the_weights_of_torchvision_and_timm_state_what_they_have_in_common(tmp_path: Path) -> None:
    (statement,) = stated(tmp_path, name="torchvision:resnet50")
    assert statement.normalisation == (tuple(IMAGENET["mean"]), tuple(IMAGENET["std"]))
    # Its two sets of weights are tested at 224 pixels, cropped from 256 or from 232.
    assert (statement.image_size, statement.resize, statement.order) == (224, None, "rgb")
    (statement,) = stated(tmp_path, name="timm:tf_efficientnet_lite0")
    assert (statement.image_size, statement.resize, statement.source) == (224, 256, "timm's tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config_json": "{"}, "config.json is no JSON"),
        ({"config_json": {"mean": "x", "std": [1], "input_size": [3, 8, 8]}}, "config.json beside the file describes"),
        ({"config_json": {"mean": [0, 0], "std": [1, 1], "input_size": [3, 8, 8]}}, r"mean \[0.0, 0.0\]"),
        ({"preprocessor_config_json": {"image_mean": [0.5], "image_std": [0]}}, "preprocessor_config.json beside"),
        ({"preprocessor_config_json": {"size": {"shortest_edge": "big"}}}, "preprocessor_config.json beside"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_in_one_line(
    files: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        stated(tmp_path, **files)
    assert "\n" not in str(error.value)


def test_other_files_of_these_names_state_nothing(tmp_path: Path) -> None:
    assert stated(tmp_path, config_json=[1, 2], preprocessor_config_json={"feature_size": 80}) == []
