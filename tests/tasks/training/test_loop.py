"""The training loop: resumption to the same weights, layout, compilation, and waiting for images."""

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
    whole = fit_lenet(Work.at(tmp_path), data, settings)

    def cut(epoch, score):
        if epoch == 2:
            raise Cut

    work = Work.at(tmp_path)
    with pytest.raises(Cut):
        fit_lenet(work, data, settings, on_epoch=cut)
    seen, trained, train_epoch = [], [], loop.TrainingLoop._train

    def spy(run):
        trained.append(run.state.epoch)
        return train_epoch(run)

    monkeypatch.setattr(loop.TrainingLoop, "_train", spy)
    resumed = fit_lenet(work, data, settings, on_epoch=lambda epoch, score: seen.append(epoch))
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


@pytest.mark.parametrize(("channels_last", "compiled"), [(True, False), (False, True)])
def test_layout_and_compilation_are_those_asked_for(tmp_path, channels_last, compiled):
    import torch

    from tasks.training.loop import TrainingLoop

    work = Work.at(tmp_path)
    network, architecture = fresh(LENET, data := digits(work), 0)
    settings = QUICK.model_copy(update={"channels_last": channels_last, "compile": compiled})
    run = TrainingLoop(training_of(work, architecture, data, settings), network)
    (weight,) = [p for name, p in run.model.named_parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert isinstance(run.stepped, torch._dynamo.eval_frame.OptimizedModule) == compiled


def loop_run(work, data, **change):
    from tasks.training.loop import TrainingLoop

    settings = QUICK.model_copy(update={"epochs": 2, "learning_rate": 0.01, **change})
    model = Model(name="resnet34", width=8)
    network, architecture = fresh(model, data, 0)
    return TrainingLoop(training_of(work, architecture, data, settings, model.label), network)


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
    first, second = (torch.load(run.training.checkpoints.newest(run.log), weights_only=True) for run in (plain, warm))
    # BatchNorm's statistics among them
    for part in ("model", "best_weights"):
        assert all(torch.equal(second[part][key], value) for key, value in first[part].items())
    assert str(first["optimizer"]) == str(second["optimizer"])
    told = [row["compile_seconds"] for row in warm.state.epochs]
    assert told[0] > 0 and told[1:] == [None] * 3
    assert [row["compile_seconds"] for row in plain.state.epochs] == [None] * 4, "nothing compiles on a CPU"


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
    assert run.state.epochs[0]["compile_seconds"] > 0


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
    first, *later = (row["seconds"] for row in run.state.epochs if row["split"] == "train")
    assert run.state.epochs[0]["compile_seconds"] > 5 * first
    assert first < 3 * statistics.median(later)


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
    fit_lenet(work, digits(work), QUICK.model_copy(update={"epochs": 2}))
    (said,) = [message for message in caplog.messages if "waited" in message]
    assert "of epoch 1; larger batches (train.batch_size) would shorten it" in said
