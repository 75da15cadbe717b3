"""Images without labels: the original's predictions stand for labels, and what the stages make of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch

import models
from flows.plan import planned
from flows.settings import Mistake, load
from flows.steps import steps
from tasks.caching.work import Work
from tasks.datasets import open_source
from tasks.datasets._arrays import load_arrays
from tasks.datasets._find import resolve
from tasks.inspect import inspect
from tasks.label import label
from tasks.prepare import prepare
from tasks.records import Data, Model, Train
from tasks.tables.expectations import Checks
from tasks.train import train
from tests.support.given import CLASSES, SIZE
from tests.support.unlabelled import IMAGES, MEAN, STD, unlabelled

if TYPE_CHECKING:
    from pathlib import Path

UNLABELLED = ["data.unlabelled=true", "data.path=photos"]
STATED = {"unlabelled": True, "mean": (MEAN,), "std": (STD,), "image_size": SIZE}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("out"))


def test_the_originals_predictions_stand_for_labels_and_say_so(work: Work, tmp_path: Path) -> None:
    file, photos, predictions = unlabelled(tmp_path)
    (photos / "old" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut off")
    model = Model(file=str(file), name="small", order="rgb")
    settings = Data(path=str(photos), on_bad="drop", **STATED)
    inspected = inspect(work, model, settings)
    assert inspected.classes == tuple(map(str, range(CLASSES)))
    labelled = label(work, model, settings, inspected)
    assert (labelled.model, labelled.classes) == ("small", inspected.classes)
    stored = np.load(work.store.get(labelled.labels))
    assert len(np.unique(predictions)) == 3 and stored.tolist() == [*predictions, 0]
    prepared = prepare(work, settings, inspected.preparation, labelled)
    arrays = load_arrays(work.store, prepared)
    assert sorted(arrays.labels) == sorted(predictions)
    assert prepared.train_rows + prepared.validation_rows + prepared.test_rows == IMAGES
    assert (prepared.classes, prepared.labelled_by) == (inspected.classes, "small")
    table = work.store.get(prepared.tables["datasets"])
    assert Checks().validate({"datasets": table}) == []
    rows = pl.read_parquet(table)
    assert set(rows["labelled_by"]) == {"small"} and rows["dropped"].sum() == 1
    assert rows["layout"][0] == "81 images without labels; the predictions of small stand for labels"


def test_names_of_classes_come_from_a_file_and_of_equal_names_each_has_its_number(work: Work, tmp_path: Path) -> None:
    file, photos, _ = unlabelled(tmp_path)
    (tmp_path / "names.txt").write_text("cat\ncrane\ndog\ncrane\nfox\n")
    model = Model(file=str(file), order="rgb", labels=str(tmp_path / "names.txt"))
    inspected = inspect(work, model, Data(path=str(photos), **STATED))
    assert inspected.classes == ("cat", "crane (1)", "dog", "crane (3)", "fox")
    assert inspected.preparation.outputs_of_classes is None
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"names\.txt names 2 classes, and the model has 5 outputs"):
        inspect(work, model, Data(path=str(photos), **STATED))


def test_a_preparation_that_nothing_states_is_asked_for(work: Work, tmp_path: Path) -> None:
    file, photos, _ = unlabelled(tmp_path)
    with pytest.raises(ValueError, match="cannot be found by trying") as raised:
        inspect(work, Model(file=str(file)), Data(path=str(photos), unlabelled=True, image_size=SIZE))
    assert str(raised.value).endswith("give models.order (--order), data.mean and data.std (--mean, --std)")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images"):
        open_source(resolve(Data(path=str(tmp_path / "empty"), **STATED))).parts.keys()


def test_named_weights_are_an_original_too_and_say_how_many_classes_there_are(work: Work, tmp_path: Path) -> None:
    _, photos, _ = unlabelled(tmp_path)
    torch.manual_seed(0)
    network = models.build("lenet5", num_classes=7, in_channels=3, image_size=SIZE)
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    model = Model(name="lenet5", pretrained=str(tmp_path / "seven.pth"))
    settings = Data(path=str(photos), **STATED)
    inspected = inspect(work, model, settings)
    assert inspected.classes == tuple(map(str, range(7)))
    labelled = label(work, model, settings, inspected)
    prepared = prepare(work, settings, inspected.preparation, labelled)
    trained = train(work, model, prepared, Train(epochs=0), True)
    evaluation = pl.read_parquet(work.store.get(trained.tables["evaluations"]))
    assert evaluation["top1"].to_list() == [1.0], "it agrees with itself"
    assert len(np.unique(load_arrays(work.store, prepared).labels)) > 1
    with pytest.raises(ValueError, match=r"give data\.mean and data\.std \(--mean, --std\)$"):
        inspect(work, model, Data(path=str(photos), unlabelled=True, image_size=SIZE))
    plan = steps(planned(load("optimize", [*UNLABELLED, "models=[{name='lenet5', pretrained='a.pth'}]"])).study)
    assert [step.stage for step in plan][:4] == ["inspect", "label", "prepare", "train"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.epochs=1"], "data.unlabelled: nothing can be trained without labels; set train.epochs = 0"),
        (["prune.ratios=[0.5]"], "data.unlabelled: nothing can be trained without labels"),
        (["models=['a.onnx', 'b.onnx']"], "compared with one original, so there can be one model; got a, b"),
        (["select.metric=macro_f1"], "data.unlabelled: agreement is that of top-1"),
        (["data.label=kind"], "data.label is for images with labels"),
        (["data.source=parquet"], "a folder of images, or a zip of one; photos is of the source parquet"),
    ],
)
def test_what_needs_labels_is_refused(settings: list[str], message: str) -> None:
    assert load("optimize", UNLABELLED).data.unlabelled
    with pytest.raises(Mistake, match=message):
        load("optimize", [*UNLABELLED, *settings])
