"""The stage inspect: what it tries models on, what it writes, and what its result depends on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.forms._trial_images import trial_images
from tasks.inspect import inspect, inspect_task
from tasks.prepare import prepare
from tasks.records import Data, Inspected, Model
from tasks.tables.expectations import Checks
from tests.support.colours import COLOURS, SIZE, colour_images, colour_model
from tests.support.files import png, write_parquet

LOG = logging.getLogger("burnish.test")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(path=str(colour_images(tmp_path_factory.mktemp("images") / "train.parquet", 25)))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out")


def table(work: Work, inspected: Inspected) -> pl.DataFrame:
    return pl.read_parquet(work.store.get(inspected.tables["preparations"]))


def test_every_try_is_a_row_and_one_of_them_is_chosen(images: Data, work: Work, tmp_path: Path) -> None:
    model = Model(file=str(colour_model(tmp_path / "net.onnx", order="bgr")), name="net")
    inspected = inspect(work, model, images)
    rows = table(work, inspected)
    assert Checks().validate({"preparations": work.store.get(inspected.tables["preparations"])}) == []
    assert len(rows) > 10 and set(rows["model"]) == {"net"}
    (chosen,) = rows.filter("chosen").to_dicts()
    preparation = inspected.preparation
    assert (chosen["order"], chosen["layout"], chosen["image_size"]) == ("bgr", "nchw", preparation.image_size)
    assert (tuple(chosen["mean"]), tuple(chosen["std"])) == (preparation.mean, preparation.std) == ((0.0,), (1.0,))
    assert chosen["images"] == 200 and chosen["top1"] > 0.95
    assert rows.filter(images=200)["top1"].max() == chosen["top1"]
    # Most tries end after few images.
    assert rows.filter(images=32).height > rows.height / 2


def test_no_test_image_is_tried(images: Data, work: Work) -> None:
    tried = trial_images(images, LOG)
    assert tried is not None
    arrays = load_arrays(work.store, prepare(work, images.model_copy(update={"image_size": SIZE})))
    of_split = {
        split: {arrays.images[row].tobytes() for row in arrays.rows_of(split)}
        for split in ("train", "validation", "test")
    }
    shown = {image.tobytes() for image in tried.pixels(SIZE, None, len(tried))}
    assert len(shown) == 200
    assert not shown & of_split["test"]
    assert shown <= of_split["train"] | of_split["validation"]


def test_where_all_images_are_for_testing_they_are_tried_and_the_log_says_so(
    images: Data, caplog: pytest.LogCaptureFixture
) -> None:
    data = images.model_copy(update={"test_fraction": 1.0, "mean": (0.5,), "std": (0.5,)})
    tried = trial_images(data, LOG, most=20)
    assert tried is not None and len(tried) == 20
    assert "all images are for testing" in caplog.text


def test_bad_images_and_labels_are_left_out(tmp_path: Path) -> None:
    rows = [(png(10 * number), number % 2) for number in range(20)]
    bad: list[tuple[bytes | None, int | None]] = [(b"no image", 0), (None, 1), (png(1), 7), (png(2), None)]
    path = write_parquet(tmp_path / "train.parquet", [*rows, *bad], ["a", "b"])
    tried = trial_images(Data(path=str(path), test_fraction=0.1), LOG)
    assert tried is not None
    assert 16 <= len(tried) <= 20
    assert set(tried.labels) == {0, 1}
    assert (tried.own_size, tried.pixels(2, 3, 5).shape) == (4, (5, 2, 2, 3))


def test_a_fixed_batch_and_an_input_of_bytes_are_accepted(images: Data, work: Work, tmp_path: Path) -> None:
    model = onnx.load(colour_model(tmp_path / "net.onnx", mean=(0.0,), std=(1 / 255,), order="bgr"))
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["as floats" if name == "input" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Cast", ["input"], ["as floats"], to=TensorProto.FLOAT))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.UINT8, [3, 3, SIZE, SIZE]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [3, len(COLOURS)]))
    onnx.save(model, tmp_path / "bytes.onnx")
    inspected = inspect(work, Model(file=str(tmp_path / "bytes.onnx")), images)
    assert (inspected.preparation.order, inspected.preparation.std) == ("bgr", (1 / 255,))
    assert inspected.preparation.told_by["std"] == "the graph's input"
    # Two orders of the channels, and two of the classes.
    assert len(table(work, inspected)) == 4


def test_images_without_labels_need_a_full_statement(work: Work, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", [(png(n), None) for n in range(20)], list(COLOURS))
    model = Model(file=str(colour_model(tmp_path / "net.onnx")))
    message = (
        r"no image has a label, .*: give models.order \(--order\), data.mean and data.std \(--mean, --std\), "
        r"data.image_size|nothing says"
    )
    with pytest.raises(ValueError, match=message):
        inspect(work, model, Data(path=str(path)))
    told = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, SIZE, SIZE], "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(told))
    inspected = inspect(work, model, Data(path=str(path)))
    assert (inspected.preparation.order, inspected.preparation.mean) == ("rgb", (0.5,))


def test_the_key_counts_the_model_what_describes_it_the_labels_and_the_images(tmp_path: Path) -> None:
    data = Data(path=str(colour_images(tmp_path / "images" / "train.parquet", 2)))
    file = colour_model(tmp_path / "net.onnx")
    labels = tmp_path / "names" / "of.txt"
    labels.parent.mkdir()
    labels.write_text("\n".join(COLOURS))
    model = Model(file=str(file), labels=str(labels))

    def changed(before: dict[str, Any]) -> set[str]:
        now = parts()
        return {key for key in {*now, *before} if now.get(key) != before.get(key)}

    def parts() -> dict[str, Any]:
        return inspect_task.about.parts({"model": model, "settings": data})  # type: ignore[attr-defined]

    first = parts()
    assert changed(first) == set()
    (tmp_path / "config.json").write_text("{}")
    assert changed(first) == {"content of config.json"}
    second = parts()
    labels.write_text("\n".join(reversed(COLOURS)))
    assert changed(second) == {"content of of.txt"}
    third = parts()
    colour_model(file, order="bgr")
    assert changed(third) == {"content of models.file"}
    fourth = parts()
    colour_images(tmp_path / "images" / "train.parquet", 2, seed=1)
    assert changed(fourth) == {"content of the source"}


def test_a_model_of_grey_images_is_tried_on_grey_images(work: Work, tmp_path: Path) -> None:
    levels = np.linspace(0.05, 0.95, 10)
    dice = np.random.default_rng(0)
    shades = [(round(255 * (levels[n % 10] + dice.normal(0, 0.02))), n % 10) for n in range(300)]
    rows: list[tuple[bytes | None, int | None]] = [(png(int(np.clip(s, 0, 255)), mode="RGB"), n) for s, n in shades]
    path = write_parquet(tmp_path / "train.parquet", rows, [f"shade{number}" for number in range(10)])
    # It wants pixels from -1 to 1, and names the nearest level.
    wanted = 2 * levels - 1
    constants = {"weights": 2 * wanted[None], "bias": -(wanted**2)}
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "g.onnx")
    preparation = inspect(work, Model(file=str(tmp_path / "g.onnx")), Data(path=str(path))).preparation
    assert (preparation.order, preparation.mean, preparation.std) == ("grey", (0.5,), (0.5,))
