"""Training with each technique alone, with all and with none: the settings, a real training, the report."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from tasks import machine
from tasks.ablate import QUALITY, ablate
from tasks.caching.work import Work
from tasks.machine.devices import choose_precision
from tasks.records import Ablate, Model, Study, Train
from tests.support import factory
from tests.support.digits import digits

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
    both_named = TWO | {"both": {"label_smoothing": 0.1, "ema": 0.9}}
    assert Ablate(techniques=both_named).names == ("none", *both_named), "one of the techniques is all of them"


def test_all_is_without_what_stands_alone_and_what_is_taken_out() -> None:
    asked = Ablate(techniques=TWO | {"other average": {"ema": 0.99}}, alone=("other average",))
    assert asked.names == ("none", "smoothing", "average", "other average", "all")
    assert asked.sets("all") == {"label_smoothing": 0.1, "ema": 0.9}
    assert asked.sets("other average") == {"ema": 0.99}
    left = asked.without({"other average", "average"})
    assert (left.names, left.alone) == (("none", "smoothing"), ())


@pytest.mark.parametrize(
    ("techniques", "said"),
    [
        ({"all": {"ema": 0.9}}, "'all' is the name of the training with all of them"),
        ({"a": {"ema": 0.9}, "b": {"ema": 0.99}}, "a and b set ema to different values.* name one of them in alone"),
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


def test_what_cannot_run_here_is_skipped_and_all_is_without_it(tmp_path: Path, monkeypatch, caplog) -> None:
    data = digits(Work.at(tmp_path), 100)
    train = Train(batch_size=20, device="cpu")
    techniques = TWO | {"Triton": {"fused_pointwise": True}, "pinned": {"pin_memory": True}}
    asked = Ablate(techniques=techniques, epochs=1)

    def made(technique: str, settings: Ablate = asked) -> dict[str, object]:
        # of its own: a checkpoint is gone on from
        work = Work.at(tmp_path)
        done = ablate(work, Model(), data, train, settings, technique)
        return pl.read_parquet(work.store.get(done.tables["ablations"])).row(0, named=True)

    def skipped(technique: str, settings: Ablate = asked) -> str:
        row = made(technique, settings)
        assert (row["technique"], row["status"], row["top1"]) == (technique, "skipped", None)
        assert f"{technique} is skipped: {row['error']}" in caplog.text
        return str(row["error"])

    assert "Triton's kernels run on CUDA devices only" in skipped("Triton")
    assert "page-locked memory is for a GPU" in skipped("pinned")
    row = made("all")
    assert json.loads(str(row["sets"])) == {"label_smoothing": 0.1, "ema": 0.9}
    assert row["note"] == "without Triton, pinned"
    assert "all techniques together leaves out Triton, pinned, which this machine cannot run" in caplog.text
    assert made("average")["note"] is None
    one = Ablate(techniques={"average": {"ema": 0.9}, "pinned": {"pin_memory": True}}, epochs=1)
    assert "without pinned it is one technique alone" in skipped("all", one)
    none = Ablate(techniques={"Triton": {"fused_pointwise": True}, "pinned": {"pin_memory": True}}, epochs=1)
    assert "or none" in skipped("all", none)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(machine, "cpu", lambda has=has: ("a CPU", ("avx512_fp16",) if has else ()))
        assert choose_precision("auto", "cpu") == ("bf16" if has else "fp32")
        for precision in ("bf16", "fp16"):
            low = Ablate(techniques={"low": {"precision": precision}}, epochs=1)
            if has:
                assert made("low", low)["precision"] == precision
            else:
                assert f"cpu has no {precision} instructions" in skipped("low", low)


@pytest.mark.parametrize(
    ("seconds", "epochs", "verdict"),
    [
        ([1.0, 1.1, 1.2, 1.9], 5, "faster"),
        ([3.1, 4.0, 5.0, 3.2], 5, "slower"),
        ([2.9, 4.0, 5.0, 3.2], 5, "indistinguishable"),
        ([1.0, 1.1, 1.2], 4, None),
    ],
)
def test_a_technique_is_faster_or_slower_where_its_epochs_and_nones_do_not_overlap(
    tmp_path: Path, monkeypatch, seconds: list[float], epochs: int, verdict: str | None
) -> None:
    work = Work.at(tmp_path)
    asked = Ablate(techniques=TWO, epochs=epochs)
    took = {"none": [9.0, *[2.0, 3.0, 2.5, 2.2][: epochs - 1]], "average": [9.0, *seconds]}

    def trained(work, model, data, train, variant, stage):
        told = [
            {
                "epoch": n,
                "split": "train",
                "seconds": s,
                "images_per_second": 1 / s,
                "data_wait": 0.0,
                "compile_seconds": None,
                "memory_peak_bytes": 1,
                "precision": "fp32",
                "device": "cpu",
                "batch_size": 1,
            }
            for n, s in enumerate(took[variant.rpartition("-")[2]], 1)
        ]
        return SimpleNamespace(epochs=told, evaluation=dict.fromkeys(QUALITY, 0.5), spread={"test_macro_f1_std": None})

    monkeypatch.setattr("tasks.ablate.train_seeds", trained)
    # No image is read: what trains stands in.
    none = ablate(work, Model(), None, Train(device="cpu"), asked, "none")  # type: ignore[arg-type]
    plain = none.tables["ablations"]
    made = ablate(work, Model(), None, Train(device="cpu"), asked, "average", plain)  # type: ignore[arg-type]
    rows = [pl.read_parquet(work.store.get(one.tables["ablations"])).row(0, named=True) for one in (none, made)]
    assert [row["verdict"] for row in rows] == [None, verdict]
    assert (rows[1]["epoch_seconds_low"], rows[1]["epoch_seconds_high"]) == (min(seconds), max(seconds))


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
    from tests.support.reports import page_of

    html = page_of({"ablations": factory.tables()["ablations"]}, factory.study(), "a run")
    shown = html[html.index('id="ablation"') : html.index("</table>", html.index('id="ablation"'))]
    assert "AMP" in shown
    assert "precision bf16" in shown
    assert "it did not fit" in shown


def test_no_techniques_leave_the_stage_out_whatever_was_to_stay_alone() -> None:
    assert Ablate(techniques={}, alone=("fp16",)).names == ()
