"""The train stage: learning, early stopping, precisions and other settings, seeds, and the names of variants."""

import statistics

import polars
import pytest

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.records import Model
from tasks.train import train
from tasks.training.fit import Diverged, fit
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.trainings import LENET, QUICK, fit_lenet, training_of


def test_training_learns_and_records_one_row_per_epoch_and_split(tmp_path):
    work = Work.at(tmp_path)
    trained = train(work, LENET, digits(work, 1000), QUICK.model_copy(update={"epochs": 12}), True)
    rows = polars.read_parquet(work.store.get(trained.tables["epochs"]))
    assert rows.height == 2 * rows["epoch"].max()
    assert trained.validation_macro_f1 > 0.9
    assert trained.validation_macro_f1 == rows.filter(polars.col("split") == "validation")["macro_f1"].max()
    assert trained.variant.parameters == 21_386
    assert trained.variant.benchmark


def test_training_ends_early_when_the_validation_score_does_not_rise(tmp_path):
    work = Work.at(tmp_path)
    training = fit_lenet(
        work, digits(work), QUICK.model_copy(update={"epochs": 50, "patience": 2, "learning_rate": 1e-7})
    )
    assert len(training.epochs) / 2 < 50


def test_equal_seeds_give_equal_weights_and_another_seed_gives_other_weights(tmp_path):
    data = digits(Work.at(tmp_path))
    first_sha256, second_sha256 = (fit_lenet(Work.at(tmp_path), data, QUICK).artifact.sha256 for _ in range(2))
    assert first_sha256 == second_sha256
    assert first_sha256 != fit_lenet(Work.at(tmp_path), data, QUICK.model_copy(update={"seeds": (1,)})).artifact.sha256


def test_a_loss_that_is_not_finite_stops_training_and_the_error_names_epoch_and_step(tmp_path):
    work = Work.at(tmp_path)
    with pytest.raises(Diverged, match=r"(nan|inf) at epoch \d+, step \d+"):
        fit_lenet(work, digits(work), QUICK.model_copy(update={"learning_rate": 1e3, "schedule": "constant"}))


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"optimizer": "adamw", "learning_rate": 0.003, "schedule": "cosine"},
        {"accumulate": 3, "label_smoothing": 0.1, "channels_last": False},
        {"optimizer": "muon", "learning_rate": 0.01, "weight_decay": 0.01},
        {"workers": 1, "loading": "workers", "augment": "cutmix", "ema": 0.9},
        {"train_limit": 200, "augment": "trivialaugment", "warmup": 0.1, "fused": False},
    ],
    ids=str,
)
def test_training_with_each_setting_lowers_the_loss(tmp_path, change):
    work = Work.at(tmp_path)
    training = fit_lenet(work, digits(work, 600), QUICK.model_copy(update={**change, "epochs": 6, "patience": 6}))
    losses = [row["loss"] for row in training.epochs if row["split"] == "train"]
    assert losses[-1] < losses[0]
    assert {row["precision"] for row in training.epochs} == {change.get("precision", "fp32")}


def test_accumulated_batches_step_as_one_large_batch(tmp_path):
    # The 96 training images are three batches of 32, or one of 96.
    data = digits(Work.at(tmp_path), 160)
    rows = [
        fit_lenet(Work.at(tmp_path), data, QUICK.model_copy(update={"epochs": 2, **change})).epochs
        for change in ({"accumulate": 3}, {"batch_size": 96})
    ]
    small, large = ([r["loss"] for r in part if r["split"] == "validation"] for part in rows)
    assert small == pytest.approx(large, rel=1e-3)


def test_each_seed_is_trained_and_recorded(tmp_path):
    work = Work.at(tmp_path)
    trained = train(work, LENET, digits(work), QUICK.model_copy(update={"seeds": (0, 1, 2), "epochs": 2}), True)
    rows = polars.read_parquet(work.store.get(trained.tables["epochs"]))
    assert set(rows["seed"]) == {0, 1, 2}
    (row,) = polars.read_parquet(work.store.get(trained.tables["seeds"])).to_dicts()
    best = (
        rows.filter(polars.col("split") == "validation").group_by("seed").agg(polars.col("macro_f1").max()).sort("seed")
    )
    scores = best["macro_f1"].to_list()
    assert row["seeds"] == [0, 1, 2]
    assert row["validation_macro_f1"] == pytest.approx(scores)
    assert row["validation_macro_f1_mean"] == pytest.approx(statistics.mean(scores))
    assert row["validation_macro_f1_std"] == pytest.approx(statistics.stdev(scores))
    assert row["chosen"] == scores.index(max(scores)) == int(trained.variant.setting.removeprefix("seed "))
    evaluated = polars.read_parquet(work.store.get(trained.tables["evaluations"]))["macro_f1"].item()
    assert row["test_macro_f1"][row["chosen"]] == evaluated
    assert row["test_macro_f1_mean"] == pytest.approx(statistics.mean(row["test_macro_f1"]))


def test_training_on_a_gpu_that_is_absent_fails_and_does_not_fall_back_to_the_cpu(tmp_path):
    work = Work.at(tmp_path)
    with pytest.raises(ValueError, match="CUDA devices"):
        fit_lenet(work, digits(work), QUICK.model_copy(update={"device": "cuda:7"}))


def test_test_images_are_never_read_while_training(tmp_path):
    import numpy

    work = Work.at(tmp_path)
    data = digits(work)
    training = fit_lenet(work, data, QUICK)
    arrays = load_arrays(work.store, data)
    images = numpy.array(arrays.images)
    images[arrays.rows_of("test")] = 0
    with work.store.temporary() as folder:
        numpy.save(folder / "a.npy", images)
        blanked = data.model_copy(update={"images": work.store.put(folder / "a.npy", "npy")})
    assert fit_lenet(Work.at(tmp_path), blanked, QUICK).artifact.sha256 == training.artifact.sha256


@pytest.mark.gpu
@pytest.mark.parametrize(
    "change",
    [
        {"loading": "device", "precision": "bf16", "ema": 0.9, "augment": "erasing"},
        {"loading": "workers", "workers": 2, "precision": "fp16", "augment": "cutmix"},
        {"optimizer": "muon", "learning_rate": 0.01, "compile": True},
        {"batch_size": "auto", "optimizer": "adamw", "learning_rate": 0.003, "checkpointing": True},
    ],
    ids=str,
)
def test_training_with_each_setting_lowers_the_loss_on_a_gpu(tmp_path, change):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    work = Work.at(tmp_path)
    network, architecture = fresh(Model(name="resnet34", width=16), data := digits(work, 1000), 0)
    settings = QUICK.model_copy(update={**change, "epochs": 6, "patience": 6})
    training = fit(training_of(work, architecture, data, settings), network)
    losses = [row["loss"] for row in training.epochs if row["split"] == "train"]
    assert losses[-1] < losses[0]
    assert {row["device"] for row in training.epochs} == {"cuda:0"}
    assert all(0 < row["memory_peak_bytes"] < 1 << 33 for row in training.epochs)


def test_the_share_of_time_that_training_waits_for_images_is_recorded(tmp_path):
    work = Work.at(tmp_path)
    rows = fit_lenet(work, digits(work, 600), QUICK).epochs
    waits = {split: [row["data_wait"] for row in rows if row["split"] == split] for split in ("train", "validation")}
    assert all(0 < share < 0.5 for share in waits["train"])
    assert waits["validation"] == [None] * len(waits["train"])


def test_an_upsampled_model_has_its_own_name_and_upsampling_must_enlarge_the_images(tmp_path):
    work = Work.at(tmp_path)
    data, model = digits(work), Model(name="lenet5", upsample=32)
    trained = train(work, model, data, QUICK.model_copy(update={"epochs": 1}), True)
    assert trained.variant.name == "lenet5-32px/train"
    # LeNet-5 has this many parameters for 32 pixels and one channel, and 21,386 for 8 pixels.
    assert trained.variant.parameters == 61_706
    with pytest.raises(ValueError, match=r"models\.upsample: 8 is no more than the images' 8 pixels"):
        fresh(Model(name="lenet5", upsample=8), data, 0)
