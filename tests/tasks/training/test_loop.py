"""The training loop resumes to the same weights, uses the layout and compilation asked for, and warns of waiting."""

import signal
import statistics
import subprocess
from pathlib import Path

import pytest

from tasks.caching.work import Work
from tasks.records import Model
from tasks.training import loop
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.programs import command, environment
from tests.support.trainings import LENET, QUICK, fit_lenet, training_of


class Interruption(Exception):
    pass


@pytest.mark.parametrize(
    ("policy", "seconds", "remaining_epochs"), [("none", 0, [3, 4]), ("crop_flip", 60, [2, 3, 4]), ("mixup", 0, [3, 4])]
)
def test_an_interrupted_training_resumes_from_its_checkpoint_to_the_same_weights(
    tmp_path, monkeypatch, policy, seconds, remaining_epochs
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    settings = QUICK.model_copy(update={"augment": policy})
    data = digits(Work.at(tmp_path))
    uninterrupted = fit_lenet(Work.at(tmp_path), data, settings)

    def interrupt(epoch, score):
        if epoch == 2:
            raise Interruption

    work = Work.at(tmp_path)
    with pytest.raises(Interruption):
        fit_lenet(work, data, settings, on_epoch=interrupt)
    seen_epochs = []
    trained_epochs = []
    train_epoch = loop.TrainingLoop._train

    def spy(training_loop):
        trained_epochs.append(training_loop.state.epoch)
        return train_epoch(training_loop)

    monkeypatch.setattr(loop.TrainingLoop, "_train", spy)
    resumed = fit_lenet(work, data, settings, on_epoch=lambda epoch, score: seen_epochs.append(epoch))
    assert trained_epochs == remaining_epochs
    assert seen_epochs == [1, 2, 3, 4], "a tuner must be told of the epochs before the interruption too"
    assert resumed.artifact.sha256 == uninterrupted.artifact.sha256
    assert len(resumed.epochs) == len(uninterrupted.epochs)


@pytest.mark.slow
def test_a_training_killed_with_signal_9_resumes_to_the_same_weights(tmp_path):
    def train_in_process(out: Path, kill_at: int | None = None) -> list[str]:
        program = command("train_twelve_epochs", out)
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment())
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == f"epoch {kill_at}":
                process.send_signal(signal.SIGKILL)
        assert process.wait() == (-signal.SIGKILL if kill_at else 0)
        return lines

    uninterrupted = train_in_process(tmp_path / "a")
    train_in_process(tmp_path / "b", kill_at=4)
    resumed = train_in_process(tmp_path / "b")
    assert resumed[0] != "epoch 1"
    assert resumed[-1] == uninterrupted[-1]


@pytest.mark.parametrize(("channels_last", "compiled"), [(True, False), (False, True)])
def test_the_model_has_the_layout_and_the_compilation_of_the_settings(tmp_path, channels_last, compiled):
    import torch

    from tasks.training.loop import TrainingLoop

    work = Work.at(tmp_path)
    data = digits(work)
    network, architecture = fresh(LENET, data, 0)
    settings = QUICK.model_copy(update={"channels_last": channels_last, "compile": compiled})
    training_loop = TrainingLoop(training_of(work, architecture, data, settings), network)
    (weight,) = [p for name, p in training_loop.model.named_parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert isinstance(training_loop.stepped, torch._dynamo.eval_frame.OptimizedModule) == compiled


def small_training_loop(work, data, **change):
    from tasks.training.loop import TrainingLoop

    settings = QUICK.model_copy(update={"epochs": 2, "learning_rate": 0.01, **change})
    model = Model(name="resnet34", width=8)
    network, architecture = fresh(model, data, 0)
    return TrainingLoop(training_of(work, architecture, data, settings, model.label), network)


def test_warming_up_the_compilation_changes_neither_weights_nor_statistics(tmp_path):
    import torch

    data = digits(Work.at(tmp_path), 200)
    plain, warm = (
        small_training_loop(Work.at(tmp_path), data, augment="mixup", ema=0.9, precision="bf16") for _ in range(2)
    )
    before = {key: value.clone() for key, value in warm.model.state_dict().items()}
    warm._warm_up()
    assert all(torch.equal(value, before[key]) for key, value in warm.model.state_dict().items())
    assert all(p.grad is None for p in warm.model.parameters())
    for training_loop in (plain, warm):
        training_loop.go()
    first, second = (
        torch.load(training_loop.training.checkpoints.newest(training_loop.log), weights_only=True)
        for training_loop in (plain, warm)
    )
    # BatchNorm's statistics are among the compared values.
    for part in ("model", "best_weights"):
        assert all(torch.equal(second[part][key], value) for key, value in first[part].items())
    assert str(first["optimizer"]) == str(second["optimizer"])
    compile_seconds = [row["compile_seconds"] for row in warm.state.epochs]
    assert compile_seconds[0] > 0 and compile_seconds[1:] == [None] * 3
    assert [row["compile_seconds"] for row in plain.state.epochs] == [None] * 4, "nothing compiles on a CPU"


def test_no_epoch_compiles_anything(tmp_path, monkeypatch):
    import functools

    import torch
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    training_loop = small_training_loop(
        Work.at(tmp_path), digits(Work.at(tmp_path), 210), compile=True, augment="crop_flip", epochs=3, ema=0.9
    )
    compiled_graphs = []
    train_epoch = training_loop._train

    def count_graphs():
        before = counters["stats"]["unique_graphs"]
        scores = train_epoch()
        compiled_graphs.append(counters["stats"]["unique_graphs"] - before)
        return scores

    counters.clear()
    monkeypatch.setattr(training_loop, "_train", count_graphs)
    training_loop.go()
    assert compiled_graphs == [0, 0, 0]
    assert counters["stats"]["unique_graphs"] == 2, (
        "the model and the augmentation are compiled; evaluation runs the plain model"
    )
    assert training_loop.state.epochs[0]["compile_seconds"] > 0


@pytest.mark.gpu
def test_the_first_epoch_on_a_gpu_takes_about_as_long_as_later_epochs(tmp_path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    training_loop = small_training_loop(
        Work.at(tmp_path),
        digits(Work.at(tmp_path), 1700),
        compile=True,
        augment="crop_flip",
        epochs=5,
        precision="bf16",
    )
    training_loop.go()
    first, *later = (row["seconds"] for row in training_loop.state.epochs if row["split"] == "train")
    assert training_loop.state.epochs[0]["compile_seconds"] > 5 * first
    assert first < 3 * statistics.median(later)


def test_a_training_that_waits_for_images_warns_once(tmp_path, monkeypatch, caplog):
    import time

    from tasks.training.batches import Resident

    original_epoch = Resident.epoch

    def slow(self, *arguments):
        for batch in original_epoch(self, *arguments):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(Resident, "epoch", slow)
    work = Work.at(tmp_path)
    fit_lenet(work, digits(work), QUICK.model_copy(update={"epochs": 2}))
    (warning,) = [message for message in caplog.messages if "waited" in message]
    assert "of epoch 1; larger batches (train.batch_size) would shorten it" in warning
