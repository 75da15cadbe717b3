"""The ablation trains with each technique alone, with all and with none: settings, rows, verdicts and the report."""

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

TWO_TECHNIQUES = {"smoothing": {"label_smoothing": 0.1}, "average": {"ema": 0.9}}


def test_none_trains_with_the_plain_settings_and_all_with_those_of_every_technique() -> None:
    ablation = Ablate(techniques=TWO_TECHNIQUES, plain={"precision": "fp32"}, epochs=2, seeds=(3, 4))
    base = Train(precision="bf16", learning_rate=0.3, patience=1, epochs=40)
    assert ablation.names == ("none", "smoothing", "average", "all")
    none, both = ablation.train(base, "none"), ablation.train(base, "all")
    assert (none.precision, none.learning_rate, none.label_smoothing, none.ema) == ("fp32", 0.3, 0.0, None)
    assert (both.label_smoothing, both.ema) == (0.1, 0.9)
    for train in (none, both):
        assert (train.epochs, train.patience, train.seeds) == (2, 2, (3, 4)), (
            "every technique trains for the same number of epochs"
        )
    assert Ablate().names == ()
    assert Ablate(techniques={"average": {"ema": 0.9}}).names == ("none", "average"), (
        "with a single technique there is no 'all' beside it"
    )
    both_named = TWO_TECHNIQUES | {"both": {"label_smoothing": 0.1, "ema": 0.9}}
    assert Ablate(techniques=both_named).names == ("none", *both_named), (
        "a technique with the fields of all others takes the place of 'all'"
    )


def test_all_leaves_out_techniques_that_stand_alone_and_those_that_are_removed() -> None:
    ablation = Ablate(techniques=TWO_TECHNIQUES | {"other average": {"ema": 0.99}}, alone=("other average",))
    assert ablation.names == ("none", "smoothing", "average", "other average", "all")
    assert ablation.sets("all") == {"label_smoothing": 0.1, "ema": 0.9}
    assert ablation.sets("other average") == {"ema": 0.99}
    remaining = ablation.without({"other average", "average"})
    assert (remaining.names, remaining.alone) == (("none", "smoothing"), ())


@pytest.mark.parametrize(
    ("techniques", "message"),
    [
        ({"all": {"ema": 0.9}}, "'all' is the name of the training with all of them"),
        ({"a": {"ema": 0.9}, "b": {"ema": 0.99}}, "a and b set ema to different values.* name one of them in alone"),
        ({"a": {"emma": 0.9}}, r"ablate\.techniques\.a\.emma: Extra inputs"),
        ({"a": {"model.gelu": "relu"}}, r"ablate\.techniques\.a\.model\.gelu: Input should be 'tanh'"),
        ({"a": {"model.name": "lenet5"}}, r"model\.name makes another model; .* model\.gelu and model\.upsample"),
        ({"a": {"precision": "fp8"}}, r"ablate\.techniques\.a\.precision: Input should be"),
    ],
)
def test_impossible_techniques_are_refused_by_name(techniques: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Study.model_validate({"ablate": {"techniques": techniques}})


def test_a_row_holds_the_times_and_scores_of_a_techniques_training(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    ablation = Ablate(techniques=TWO_TECHNIQUES, epochs=3, seeds=(0, 1))
    train = Train(batch_size=32, learning_rate=0.05, device="cpu")
    output = ablate(work, Model(), digits(work, 200), train, ablation, "smoothing")
    (row,) = pl.read_parquet(work.store.get(output.tables["ablations"])).to_dicts()
    epochs = pl.read_parquet(work.store.get(output.tables["epochs"])).filter(pl.col("split") == "train")
    assert set(epochs["stage"]) == {"ablate"}
    assert len(epochs) == 6
    assert json.loads(row["sets"]) == {"label_smoothing": 0.1}
    later = epochs.filter(pl.col("epoch") > 1)["seconds"]
    assert row["epoch_seconds"] == pytest.approx(later.median())
    assert row["first_epoch_seconds"] == pytest.approx(epochs.filter(pl.col("epoch") == 1)["seconds"].mean())
    assert row["top1_low"] <= row["top1"] <= row["top1_high"]
    assert row["macro_f1_std"] is not None
    assert (row["technique"], row["seeds"], row["status"]) == ("smoothing", 2, "ok")


def test_a_technique_that_this_machine_cannot_run_is_skipped_and_left_out_of_all(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    data = digits(Work.at(tmp_path), 100)
    train = Train(batch_size=20, device="cpu")
    techniques = TWO_TECHNIQUES | {"Triton": {"fused_pointwise": True}, "pinned": {"pin_memory": True}}
    ablation = Ablate(techniques=techniques, epochs=1)

    def row_of(technique: str, settings: Ablate = ablation) -> dict[str, object]:
        # Each training has its own scratch folder, because it would continue from a checkpoint in a shared one.
        work = Work.at(tmp_path)
        output = ablate(work, Model(), data, train, settings, technique)
        return pl.read_parquet(work.store.get(output.tables["ablations"])).row(0, named=True)

    def error_of_skipped(technique: str, settings: Ablate = ablation) -> str:
        row = row_of(technique, settings)
        assert (row["technique"], row["status"], row["top1"]) == (technique, "skipped", None)
        assert f"{technique} is skipped: {row['error']}" in caplog.text
        return str(row["error"])

    assert "Triton's kernels run on CUDA devices only" in error_of_skipped("Triton")
    assert "page-locked memory is for a GPU" in error_of_skipped("pinned")
    row = row_of("all")
    assert json.loads(str(row["sets"])) == {"label_smoothing": 0.1, "ema": 0.9}
    assert row["note"] == "without Triton, pinned"
    assert "all techniques together leaves out Triton, pinned, which this machine cannot run" in caplog.text
    assert row_of("average")["note"] is None
    one_usable = Ablate(techniques={"average": {"ema": 0.9}, "pinned": {"pin_memory": True}}, epochs=1)
    assert "without pinned it is one technique alone" in error_of_skipped("all", one_usable)
    none_usable = Ablate(techniques={"Triton": {"fused_pointwise": True}, "pinned": {"pin_memory": True}}, epochs=1)
    assert "or none" in error_of_skipped("all", none_usable)
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(
            machine, "cpu", lambda supported=supported: ("a CPU", ("avx512_fp16",) if supported else ())
        )
        assert choose_precision("auto", "cpu") == ("bf16" if supported else "fp32")
        for precision in ("bf16", "fp16"):
            low_precision = Ablate(techniques={"low": {"precision": precision}}, epochs=1)
            if supported:
                assert row_of("low", low_precision)["precision"] == precision
            else:
                assert f"cpu has no {precision} instructions" in error_of_skipped("low", low_precision)


@pytest.mark.parametrize(
    ("seconds", "epochs", "verdict"),
    [
        ([1.0, 1.1, 1.2, 1.9], 5, "faster"),
        ([3.1, 4.0, 5.0, 3.2], 5, "slower"),
        ([2.9, 4.0, 5.0, 3.2], 5, "indistinguishable"),
        ([1.0, 1.1, 1.2], 4, None),
    ],
)
def test_the_verdict_is_faster_or_slower_only_where_epoch_times_do_not_overlap_those_of_none(
    tmp_path: Path, monkeypatch, seconds: list[float], epochs: int, verdict: str | None
) -> None:
    work = Work.at(tmp_path)
    ablation = Ablate(techniques=TWO_TECHNIQUES, epochs=epochs)
    epoch_seconds = {"none": [9.0, *[2.0, 3.0, 2.5, 2.2][: epochs - 1]], "average": [9.0, *seconds]}

    def trained(work, model, data, train, variant, stage):
        epoch_rows = [
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
            for n, s in enumerate(epoch_seconds[variant.rpartition("-")[2]], 1)
        ]
        return SimpleNamespace(
            epochs=epoch_rows, evaluation=dict.fromkeys(QUALITY, 0.5), spread={"test_macro_f1_std": None}
        )

    monkeypatch.setattr("tasks.ablate.train_seeds", trained)
    # `trained` stands in for the training, which alone reads the data.
    output_of_none = ablate(work, Model(), None, Train(device="cpu"), ablation, "none")  # type: ignore[arg-type]
    rows_of_none = output_of_none.tables["ablations"]
    output_of_average = ablate(work, Model(), None, Train(device="cpu"), ablation, "average", rows_of_none)  # type: ignore[arg-type]
    rows = [
        pl.read_parquet(work.store.get(output.tables["ablations"])).row(0, named=True)
        for output in (output_of_none, output_of_average)
    ]
    assert [row["verdict"] for row in rows] == [None, verdict]
    assert (rows[1]["epoch_seconds_low"], rows[1]["epoch_seconds_high"]) == (min(seconds), max(seconds))


def test_a_technique_may_change_the_model(tmp_path: Path) -> None:
    work, losses = Work.at(tmp_path), {}
    ablation = Ablate(techniques={"tanh": {"model.gelu": "tanh", "ema": 0.9}}, epochs=1)
    model = Model(name="timm:test_vit", upsample=32)
    train = Train(batch_size=20, learning_rate=0.1, device="cpu")
    assert ablation.model(model, "none") == model
    assert ablation.train(train, "tanh").ema == 0.9
    for technique in ablation.names:
        output = ablate(work, model, digits(work, 100), train, ablation, technique)
        (row,) = pl.read_parquet(work.store.get(output.tables["ablations"])).to_dicts()
        epochs = pl.read_parquet(work.store.get(output.tables["epochs"])).filter(pl.col("split") == "train")
        assert {row["model"], *epochs["model"]} == {"timm:test_vit-32px"}
        assert json.loads(row["sets"]) == ablation.sets(technique)
        losses[technique] = epochs["loss"][0]
    assert losses["none"] != losses["tanh"], "equal losses: the model was not trained with the tanh approximation"
    assert losses["none"] == pytest.approx(losses["tanh"], rel=0.01)


def test_the_report_shows_each_technique_beside_none() -> None:
    from tests.support.reports import page_of

    html = page_of({"ablations": factory.tables()["ablations"]}, factory.study(), "a run")
    section = html[html.index('id="ablation"') : html.index("</table>", html.index('id="ablation"'))]
    assert "AMP" in section
    assert "precision bf16" in section
    assert "it did not fit" in section


def test_without_techniques_the_stage_is_left_out_even_if_alone_names_one() -> None:
    assert Ablate(techniques={}, alone=("fp16",)).names == ()
