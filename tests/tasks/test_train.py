"""Training: saturation, resumption to the same weights, divergence, precision, seeds."""

import signal
import statistics
import subprocess
from pathlib import Path

import polars
import pytest

from tasks.caching.work import Work
from tasks.records import Augment, Choice, Model, Range, Tune
from tasks.train import train
from tasks.training import loop
from tasks.training.fit import Diverged, fit
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.programs import command, environment
from tests.support.trainings import LENET, QUICK, fitted


def test_training_learns_and_leaves_a_row_an_epoch_and_split(tmp_path):
    work = Work.at(tmp_path)
    trained = train(work, LENET, digits(work, 1000), QUICK.model_copy(update={"epochs": 12}), True)
    rows = polars.read_parquet(work.store.get(trained.tables["epochs"]))
    assert rows.height == 2 * rows["epoch"].max()
    assert trained.validation_macro_f1 > 0.9
    assert trained.validation_macro_f1 == rows.filter(polars.col("split") == "validation")["macro_f1"].max()
    assert trained.variant.parameters == 21_386
    assert trained.variant.benchmark


def test_training_ends_when_validation_does_not_rise(tmp_path):
    work = Work.at(tmp_path)
    done = fitted(work, digits(work), QUICK.model_copy(update={"epochs": 50, "patience": 2, "learning_rate": 1e-7}))
    assert len(done.epochs) / 2 < 50


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    data = digits(Work.at(tmp_path))
    one, two = (fitted(Work.at(tmp_path), data, QUICK).artifact.sha256 for _ in range(2))
    assert one == two
    assert one != fitted(Work.at(tmp_path), data, QUICK.model_copy(update={"seeds": (1,)})).artifact.sha256


class Cut(Exception):
    pass


@pytest.mark.parametrize(
    ("policy", "seconds", "left"), [("none", 0, [3, 4]), ("crop_flip", 60, [2, 3, 4]), ("mixup", 0, [3, 4])]
)
def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint_to_the_same_weights(
    tmp_path, monkeypatch, policy, seconds, left
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    settings = QUICK.model_copy(update={"augment": policy})
    data = digits(Work.at(tmp_path))
    whole = fitted(Work.at(tmp_path), data, settings)

    def cut(epoch, score):
        if epoch == 2:
            raise Cut

    work = Work.at(tmp_path)
    with pytest.raises(Cut):
        fitted(work, data, settings, on_epoch=cut)
    seen, trained, train_epoch = [], [], loop.Run._train

    def spy(run):
        trained.append(run.epoch)
        return train_epoch(run)

    monkeypatch.setattr(loop.Run, "_train", spy)
    resumed = fitted(work, data, settings, on_epoch=lambda epoch, score: seen.append(epoch))
    assert trained == left
    assert seen == [1, 2, 3, 4], "a tuner must be told of the epochs before the interruption too"
    assert resumed.artifact.sha256 == whole.artifact.sha256
    assert len(resumed.epochs) == len(whole.epochs)


@pytest.mark.slow
def test_a_training_killed_with_signal_9_resumes_to_the_same_weights(tmp_path):
    def run(out: Path, kill_at: int | None = None) -> list[str]:
        program = command("train_twelve_epochs", out)
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment())
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == f"epoch {kill_at}":
                process.send_signal(signal.SIGKILL)
        assert process.wait() == (-signal.SIGKILL if kill_at else 0)
        return lines

    whole = run(tmp_path / "a")
    run(tmp_path / "b", kill_at=4)
    resumed = run(tmp_path / "b")
    assert resumed[0] != "epoch 1"
    assert resumed[-1] == whole[-1]


def test_a_loss_that_is_not_finite_stops_with_the_epoch_and_step(tmp_path):
    work = Work.at(tmp_path)
    with pytest.raises(Diverged, match=r"(nan|inf) at epoch \d+, step \d+"):
        fitted(work, digits(work), QUICK.model_copy(update={"learning_rate": 1e3, "schedule": "constant"}))


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
def test_every_setting_trains(tmp_path, change):
    work = Work.at(tmp_path)
    done = fitted(work, digits(work, 600), QUICK.model_copy(update={**change, "epochs": 6, "patience": 6}))
    losses = [row["loss"] for row in done.epochs if row["split"] == "train"]
    assert losses[-1] < losses[0]
    assert {row["precision"] for row in done.epochs} == {change.get("precision", "fp32")}


@pytest.mark.parametrize(("channels_last", "compiled"), [(True, False), (False, True)])
def test_layout_and_compilation_are_those_asked_for(tmp_path, channels_last, compiled):
    import torch

    from tasks.training.loop import Job, Run

    work = Work.at(tmp_path)
    network, architecture = fresh(LENET, data := digits(work), 0)
    settings = QUICK.model_copy(update={"channels_last": channels_last, "compile": compiled})
    run = Run(
        Job(
            work=work,
            data=data,
            settings=settings,
            architecture=architecture,
            model_label="m",
            variant="m/train",
            stage="train",
        ),
        network,
    )
    (weight,) = [p for name, p in run.model.named_parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert isinstance(run.stepped, torch._dynamo.eval_frame.OptimizedModule) == compiled


def test_accumulated_batches_step_as_one_large_batch(tmp_path):
    # 96 training images: 3 batches of 32, or one of 96
    data = digits(Work.at(tmp_path), 160)
    rows = [
        fitted(Work.at(tmp_path), data, QUICK.model_copy(update={"epochs": 2, **change})).epochs
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


def test_a_gpu_that_is_not_there_is_an_error_and_no_fallback(tmp_path):
    work = Work.at(tmp_path)
    with pytest.raises(ValueError, match="CUDA devices"):
        fitted(work, digits(work), QUICK.model_copy(update={"device": "cuda:7"}))


SPACE = {"learning_rate": Range(low=0.01, high=0.2, log=True), "label_smoothing": Choice(values=(0.0, 0.1))}


def test_tuning_records_every_trial_and_can_be_resumed(tmp_path):
    from tasks.tune import search

    work = Work.at(tmp_path)
    data = digits(work)
    first, _ = search(work, LENET, data, QUICK, Tune(trials=2, epochs=2, space=SPACE))
    rows, epochs = search(work, LENET, data, QUICK, Tune(trials=4, epochs=2, space=SPACE))
    assert [row["trial"] for row in rows] == [0, 1, 2, 3]
    # not run again
    assert rows[:2] == first
    assert rows[0]["adjusted"] == "{}"
    assert all("learning_rate" in row["adjusted"] for row in rows[1:])
    assert rows[-1]["best_so_far"] == max(row["score"] for row in rows)
    whole, _ = search(Work.at(tmp_path), LENET, data, QUICK, Tune(trials=4, epochs=2, space=SPACE))
    # as if it had not been cut off
    assert [r["adjusted"] for r in whole] == [r["adjusted"] for r in rows]
    assert epochs


def test_a_trial_that_diverges_is_a_failed_row_and_the_search_goes_on(tmp_path):
    from tasks.tune import tune

    work = Work.at(tmp_path)
    data = digits(work)
    trained = train(work, LENET, data, QUICK, False)
    space = {"learning_rate": Choice(values=(1e3,)), "schedule": Choice(values=("constant",))}
    tuned = tune(work, LENET, data, trained, Tune(trials=2, epochs=2, space=space), True)
    rows = polars.read_parquet(work.store.get(tuned.tables["trials"]))
    assert rows["status"].to_list() == ["ok", "failed"]
    assert "epoch" in rows["error"][1]


def test_augmentation_scores_each_policy_and_none_may_win(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work)
    trained = train(work, LENET, data, QUICK, False)
    best = augment(work, LENET, data, trained, Augment(policies=("none", "crop_flip", "cutmix")))
    rows = polars.read_parquet(work.store.get(best.tables["variants"]))
    scores = dict(zip(rows["setting"], rows["validation_macro_f1"], strict=True))
    assert best.validation_macro_f1 == max(trained.validation_macro_f1, *scores.values())
    assert best.variant.benchmark
    assert rows.filter(polars.col("benchmark"))["name"].to_list() == [best.variant.name]
    hopeless = augment(work, LENET, data, trained, Augment(policies=("cutmix",), epochs=1, train_limit=40))
    assert hopeless.variant.name == "lenet5/augment-none"
    assert hopeless.variant.artifact == trained.variant.artifact


def policies_of(work, trained):
    """Setting -> most epochs of its training, from what augment returned."""
    variants, epochs = (polars.read_parquet(work.store.get(trained.tables[t])) for t in ("variants", "epochs"))
    most = epochs.group_by("variant").agg(polars.col("epoch").max())
    return dict(most.join(variants, left_on="variant", right_on="name").select("setting", "epoch").iter_rows())


def test_more_epochs_than_the_tuned_training_are_for_every_policy_and_their_weights_may_win(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work, 600)
    tuned = train(work, LENET, data, QUICK.model_copy(update={"epochs": 2, "patience": 20}), False)
    best = augment(work, LENET, data, tuned, Augment(policies=("none", "crop"), epochs=8))
    assert policies_of(work, best) == {"none, longer": 8, "crop": 8}, "each once, as long, none in short"
    assert best.validation_macro_f1 > tuned.validation_macro_f1
    assert best.train.epochs == 8 and best.train.augment == best.variant.setting.removesuffix(", longer")
    variants = polars.read_parquet(work.store.get(best.tables["variants"]))
    assert variants.filter("benchmark")["name"].to_list() == [best.variant.name]
    assert best.variant.name in ("lenet5/augment-crop", "lenet5/augment-none-long")
    shown = variants.filter("benchmark")["validation_macro_f1"].item()
    assert best.validation_macro_f1 == shown == variants["validation_macro_f1"].max()
    poor = augment(work, LENET, data, best, Augment(policies=("none",), epochs=9, train_limit=40))
    assert poor.validation_macro_f1 >= best.validation_macro_f1, "what is tried on few images is retrained on all"
    assert set(policies_of(work, poor).values()) == {9}


def test_fewer_epochs_are_a_try_and_the_best_is_retrained_as_long_as_the_tuned_one(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work)
    tuned = train(work, LENET, data, QUICK, False)
    best = augment(work, LENET, data, tuned, Augment(policies=("crop",), epochs=1))
    epochs = polars.read_parquet(work.store.get(best.tables["epochs"]))
    most = dict(epochs.group_by("variant").agg(polars.col("epoch").max()).iter_rows())
    assert most == {"lenet5/augment-crop-try": 1, "lenet5/augment-crop": 4}
    if best.variant.name == "lenet5/augment-none":
        assert best.train == tuned.train
    else:
        assert best.train == tuned.train.model_copy(update={"augment": "crop"})


def loop_run(work, data, **change):
    from tasks.training.loop import Job, Run

    settings = QUICK.model_copy(update={"epochs": 2, "learning_rate": 0.01, **change})
    model = Model(name="resnet34", width=8)
    network, architecture = fresh(model, data, 0)
    return Run(Job(work, architecture, data, settings, model.label, "m/train", "train"), network)


def test_the_step_in_which_pytorch_compiles_leaves_everything_as_it_was(tmp_path):
    import torch

    data = digits(Work.at(tmp_path), 200)
    plain, warm = (loop_run(Work.at(tmp_path), data, augment="mixup", ema=0.9, precision="bf16") for _ in range(2))
    before = {key: value.clone() for key, value in warm.model.state_dict().items()}
    warm._warm_up()
    assert all(torch.equal(value, before[key]) for key, value in warm.model.state_dict().items())
    assert all(p.grad is None for p in warm.model.parameters())
    for run in (plain, warm):
        run.go()
    first, second = (torch.load(run.job.checkpoints.newest(run.log), weights_only=True) for run in (plain, warm))
    # BatchNorm's statistics among them
    for part in ("model", "best_state"):
        assert all(torch.equal(second[part][key], value) for key, value in first[part].items())
    assert str(first["optimizer"]) == str(second["optimizer"])
    told = [row["compile_seconds"] for row in warm.epochs]
    assert told[0] > 0 and told[1:] == [None] * 3
    assert [row["compile_seconds"] for row in plain.epochs] == [None] * 4, "nothing compiles on a CPU"


def test_nothing_is_compiled_during_the_epochs_themselves(tmp_path, monkeypatch):
    import functools

    import torch
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    run = loop_run(
        Work.at(tmp_path), digits(Work.at(tmp_path), 210), compile=True, augment="crop_flip", epochs=3, ema=0.9
    )
    seen, inner = [], run._train

    def counted():
        before = counters["stats"]["unique_graphs"]
        scores = inner()
        seen.append(counters["stats"]["unique_graphs"] - before)
        return scores

    counters.clear()
    monkeypatch.setattr(run, "_train", counted)
    run.go()
    assert seen == [0, 0, 0]
    assert counters["stats"]["unique_graphs"] == 2, "the model and the augmentation; evaluation runs the plain model"
    assert run.epochs[0]["compile_seconds"] > 0


@pytest.mark.gpu
def test_the_first_epoch_on_a_gpu_takes_no_longer_than_the_others(tmp_path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = loop_run(
        Work.at(tmp_path),
        digits(Work.at(tmp_path), 1700),
        compile=True,
        augment="crop_flip",
        epochs=5,
        precision="bf16",
    )
    run.go()
    first, *later = (row["seconds"] for row in run.epochs if row["split"] == "train")
    assert run.epochs[0]["compile_seconds"] > 5 * first
    assert first < 3 * statistics.median(later)


def test_test_images_are_never_read_while_training(tmp_path):
    import numpy

    work = Work.at(tmp_path)
    data = digits(work)
    done = fitted(work, data, QUICK)
    images = numpy.load(work.store.root / data.images.path)
    splits = numpy.load(work.store.root / data.splits.path)
    images[splits == 2] = 0
    with work.store.temporary() as folder:
        numpy.save(folder / "a.npy", images)
        blanked = data.model_copy(update={"images": work.store.put(folder / "a.npy", "npy")})
    assert fitted(Work.at(tmp_path), blanked, QUICK).artifact.sha256 == done.artifact.sha256


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
def test_every_setting_trains_on_a_gpu(tmp_path, change):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    work = Work.at(tmp_path)
    network, architecture = fresh(Model(name="resnet34", width=16), data := digits(work, 1000), 0)
    settings = QUICK.model_copy(update={**change, "epochs": 6, "patience": 6})
    done = fit(work, network, architecture, data, settings, model_label="m", variant="m/train", stage="train")
    losses = [row["loss"] for row in done.epochs if row["split"] == "train"]
    assert losses[-1] < losses[0]
    assert {row["device"] for row in done.epochs} == {"cuda:0"}
    assert all(0 < row["memory_peak_bytes"] < 1 << 33 for row in done.epochs)


def test_the_share_of_time_spent_waiting_for_images_is_recorded(tmp_path):
    work = Work.at(tmp_path)
    rows = fitted(work, digits(work, 600), QUICK).epochs
    waits = {split: [row["data_wait"] for row in rows if row["split"] == split] for split in ("train", "validation")}
    assert all(0 < share < 0.5 for share in waits["train"])
    assert waits["validation"] == [None] * len(waits["train"])


def test_an_upsampled_model_trains_under_its_own_name_and_larger_images_are_refused(tmp_path):
    work = Work.at(tmp_path)
    data, model = digits(work), Model(name="lenet5", upsample=32)
    trained = train(work, model, data, QUICK.model_copy(update={"epochs": 1}), True)
    assert trained.variant.name == "lenet5-32px/train"
    # of 32 pixels and one channel; 21,386 at 8
    assert trained.variant.parameters == 61_706
    with pytest.raises(ValueError, match=r"models\.upsample: 8 is no more than the images' 8 pixels"):
        fresh(Model(name="lenet5", upsample=8), data, 0)


def test_a_training_that_waits_for_images_says_so_once(tmp_path, monkeypatch, caplog):
    import time

    from tasks.training.batches import Resident

    inner = Resident.epoch

    def slow(self, *arguments):
        for batch in inner(self, *arguments):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(Resident, "epoch", slow)
    work = Work.at(tmp_path)
    fitted(work, digits(work), QUICK.model_copy(update={"epochs": 2}))
    (said,) = [message for message in caplog.messages if "waited" in message]
    assert "of epoch 1; larger batches (train.batch_size) would shorten it" in said
