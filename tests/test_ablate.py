"""Training with each technique alone, with all and with none: the settings, a real training, the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import factory
import polars as pl
import pytest
from digits import digits
from pydantic import ValidationError

from tasks.ablate import ablate
from tasks.records import Ablate, Model, Study, Train
from tasks.work import Work

if TYPE_CHECKING:
    from pathlib import Path

TWO = {"smoothing": {"label_smoothing": 0.1}, "average": {"ema": 0.9}}


def test_none_sets_what_is_plain_and_all_sets_every_techniques_fields() -> None:
    asked = Ablate(techniques=TWO, plain={"precision": "fp32"}, epochs=2, seeds=(3, 4))
    base = Train(precision="bf16", learning_rate=0.3, patience=1, epochs=40)
    assert asked.names == ("none", "smoothing", "average", "all")
    none, both = asked.train(base, "none"), asked.train(base, "all")
    assert (none.precision, none.learning_rate, none.label_smoothing, none.ema) == ("fp32", 0.3, 0.0, None)
    assert (both.label_smoothing, both.ema) == (0.1, 0.9)
    for train in (none, both):
        assert (train.epochs, train.patience, train.seeds) == (2, 2, (3, 4)), "all are trained equally long"
    assert Ablate().names == ()
    assert Ablate(techniques={"average": {"ema": 0.9}}).names == ("none", "average"), "one technique is all of them"


@pytest.mark.parametrize(
    ("techniques", "said"),
    [
        ({"all": {"ema": 0.9}}, "'all' is the name of what is trained beside them"),
        ({"a": {"ema": 0.9}, "b": {"ema": 0.99}}, "a and b set ema to different values"),
        ({"a": {"emma": 0.9}}, r"ablate\.techniques\.a\.emma: Extra inputs"),
        ({"a": {"model.gelu": "relu"}}, r"ablate\.techniques\.a\.model\.gelu: Input should be 'tanh'"),
        ({"a": {"model.name": "lenet5"}}, r"model\.name makes another model; .* model\.gelu and model\.upsample"),
        ({"a": {"precision": "fp8"}}, r"ablate\.techniques\.a\.precision: Input should be"),
    ],
)
def test_impossible_techniques_are_refused_by_name(techniques: dict[str, dict[str, float]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Study.model_validate({"ablate": {"techniques": techniques}})


def test_a_row_tells_what_a_training_took_and_reached(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    asked = Ablate(techniques=TWO, epochs=3, seeds=(0, 1))
    train = Train(batch_size=32, learning_rate=0.05, device="cpu")
    made = ablate(work, Model(), digits(work, 200), train, asked, "smoothing")
    (row,) = pl.read_parquet(work.store.get(made.tables["ablations"])).to_dicts()
    epochs = pl.read_parquet(work.store.get(made.tables["epochs"])).filter(pl.col("split") == "train")
    assert set(epochs["stage"]) == {"ablate"}
    assert len(epochs) == 6
    assert json.loads(row["sets"]) == {"label_smoothing": 0.1}
    later = epochs.filter(pl.col("epoch") > 1)["seconds"]
    assert row["epoch_seconds"] == pytest.approx(later.median())
    assert row["first_epoch_seconds"] == pytest.approx(epochs.filter(pl.col("epoch") == 1)["seconds"].mean())
    assert row["top1_low"] <= row["top1"] <= row["top1_high"]
    assert row["macro_f1_std"] is not None
    assert (row["technique"], row["seeds"], row["status"]) == ("smoothing", 2, "ok")


def test_a_technique_may_change_the_model(tmp_path: Path) -> None:
    work, losses = Work.at(tmp_path), {}
    asked = Ablate(techniques={"tanh": {"model.gelu": "tanh", "ema": 0.9}}, epochs=1)
    model = Model(name="timm:test_vit", upsample=32)
    train = Train(batch_size=20, learning_rate=0.1, device="cpu")
    assert asked.model(model, "none") == model
    assert asked.train(train, "tanh").ema == 0.9
    for technique in asked.names:
        made = ablate(work, model, digits(work, 100), train, asked, technique)
        (row,) = pl.read_parquet(work.store.get(made.tables["ablations"])).to_dicts()
        epochs = pl.read_parquet(work.store.get(made.tables["epochs"])).filter(pl.col("split") == "train")
        assert {row["model"], *epochs["model"]} == {"timm:test_vit-32px"}
        assert json.loads(row["sets"]) == asked.sets(technique)
        losses[technique] = epochs["loss"][0]
    assert losses["none"] != losses["tanh"], "it was trained so"
    assert losses["none"] == pytest.approx(losses["tanh"], rel=0.01)


def test_the_report_shows_each_technique_beside_none() -> None:
    from flows.report import page

    html = page({"ablations": factory.tables()["ablations"]}, factory.study(), {}, "a run")
    shown = html[html.index('id="ablation"') : html.index("</table>", html.index('id="ablation"'))]
    assert "AMP" in shown
    assert "precision bf16" in shown
    assert "it did not fit" in shown
