"""Data-parallel training: two gloo processes through torchrun."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import models
from tasks.caching.work import Work
from tasks.records import Model, Train
from tasks.training import ddp
from tasks.training.fit import Diverged, fit
from tasks.training.group import Processes
from tasks.training.weights import fresh
from tests.support.digits import digits, warmed_model
from tests.support.paths import ROOT
from tests.support.programs import command, environment
from tests.support.trainings import training_of

TWO = Train(
    epochs=40,
    patience=40,
    batch_size=32,
    learning_rate=0.02,
    device="cpu",
    augment="crop",
    processes=2,
    precision="fp32",
)


def fitted(work: Work, data, settings: Train, on_epoch=None):
    network, architecture = fresh(Model(name="lenet5"), data, 0)
    return fit(training_of(work, architecture, data, settings, "lenet5"), network, on_epoch)


def ranks(folder: Path) -> dict[int, int]:
    """Return the process id per rank of the processes that train in `folder`."""
    pids = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            # The process has ended.
            continue
        if str(folder).encode() in command and b"tasks.training.ddp" in command:
            rank = [int(v.partition(b"=")[2]) for v in environment if v.startswith(b"LOCAL_RANK=")]
            pids |= {rank[0]: int(process.name)} if rank else {}
    return pids


@pytest.mark.slow
def test_a_training_resumed_after_a_killed_rank_equals_that_of_one_process(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    # LeNet-5 has no BatchNorm, whose statistics on a CPU would be those of one process's part of a batch.
    data = digits(Work.at(tmp_path))
    single = fitted(Work.at(tmp_path), data, TWO.model_copy(update={"processes": 1}))
    work = Work.at(tmp_path)
    seen_epochs = []

    def kill(epoch: int, score: float) -> None:
        if epoch == 1:
            os.kill(ranks(work.scratch)[1], signal.SIGKILL)

    with pytest.raises(
        RuntimeError, match=r"lenet5/train: rank 1 of 2 was ended by SIGKILL; the epochs before are kept"
    ):
        fitted(work, data, TWO, kill)
    assert not ranks(work.scratch)
    resumed = fitted(work, data, TWO, lambda epoch, score: seen_epochs.append(epoch))
    assert seen_epochs == list(range(1, TWO.epochs + 1)), (
        "a tuner must be told of the epochs before the interruption too"
    )
    assert "lenet5/train: resumed after epoch 1" in caplog.text
    weights = [
        models.load(work.store.get(fitted_training.artifact)).state_dict() for fitted_training in (single, resumed)
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)
    assert [row["loss"] for row in resumed.epochs] == pytest.approx([row["loss"] for row in single.epochs], abs=1e-3)
    for name in ("top1", "top5", "macro_f1", "learning_rate"):
        # Two rows per epoch for ten epochs: later, a rounding error may change the class of an image.
        values = [[row[name] for row in run.epochs[:20]] for run in (single, resumed)]
        assert values[1] == pytest.approx(values[0], abs=1e-6), name
    newest = max(work.scratch.glob("*.pt"), key=lambda path: int(path.name.split(".")[1]))
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed_from_older = fitted(work, data, TWO)
    assert f"the checkpoint after epoch {TWO.epochs} is damaged" in caplog.text
    assert models.load(work.store.get(resumed_from_older.artifact)).state_dict().keys() == weights[1].keys()
    for key, value in models.load(work.store.get(resumed_from_older.artifact)).state_dict().items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_error_of_a_rank_is_raised_by_the_training(tmp_path):
    work = Work.at(tmp_path)
    wild = TWO.model_copy(update={"learning_rate": 1e3, "schedule": "constant"})
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at epoch \d, step \d+; try a lower learning rate"):
        fitted(work, digits(work), wild)
    assert not ranks(work.scratch)


def test_an_interrupted_training_ends_its_torchrun_process(tmp_path, monkeypatch):
    work = Work.at(tmp_path)
    torchrun = tmp_path / "torchrun"
    message = ddp.MARK + '{"epoch": 1, "score": 0.5}'
    torchrun.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho '{message}'\nexec sleep 60\n")
    torchrun.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(torchrun))
    epochs_seen = []

    def interrupt(epoch: int, score: float) -> None:
        epochs_seen.append((epoch, score, Path("/proc", (tmp_path / "pid").read_text().strip()).exists()))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(work, digits(work), TWO, interrupt)
    assert epochs_seen == [(1, 0.5, True)]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_the_processes_of_a_training_are_found_by_folder_and_rank(tmp_path):
    """Other tests rely on `ranks` when they expect that no process of a training is left."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", "tasks.training.ddp", str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": "1"}) as process:
        try:
            deadline = time.monotonic() + 20
            # Between fork and exec, the process still has the command of its parent.
            while not ranks(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert ranks(tmp_path) == {1: process.pid}
            assert not ranks(tmp_path / "other")
        finally:
            process.kill()
    assert not ranks(tmp_path)


def test_errors_of_torchrun_and_of_ranks_become_one_line(tmp_path):
    work = Work.at(tmp_path)
    training = training_of(work, {}, digits(work), TWO, "lenet5")
    error = ddp._error(training, {"error": "OutOfMemoryError", "text": "no room", "rank": 1}, "")
    assert str(error).startswith(
        "lenet5/train: rank 1 of 2 failed: OutOfMemoryError: no room; the epochs before are kept"
    )
    assert isinstance(ddp._error(training, {"error": "ValueError", "text": "x", "rank": 0}, ""), ValueError)
    assert "torchrun failed: no such file" in str(ddp._error(training, None, "a\nno such file\n"))
    log = "".join(f"  rank      : {rank}\n  exitcode  : {code} (pid: 7)\n" for rank, code in ((0, -15), (1, -9)))
    assert "rank 1 of 2 was ended by SIGKILL" in str(ddp._error(training, None, log))


def test_a_message_of_a_rank_is_one_write_also_where_output_is_unbuffered():
    # With O_DIRECT, every write to the pipe is a packet that is read by itself.
    read, write = os.pipe2(os.O_DIRECT)
    command = [sys.executable, "-u", "-c", "from tasks.training import ddp; ddp._say(error='E', text='t', rank=1)"]
    subprocess.run(command, stdout=write, check=True, cwd=ROOT)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as packets:
        assert packets.read(4096) == b'burnish: {"error": "E", "text": "t", "rank": 1}\n'


def test_on_gpus_batchnorm_is_synchronised_and_keeps_its_activation(monkeypatch):
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, device_ids: model)
    model = warmed_model(name="tf_efficientnet_lite0", num_classes=10, in_channels=3, image_size=32)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(x)
        wrapped = Processes.wrap(Mock(), model, "cuda:0")
        assert torch.equal(wrapped(x), expected), "the activation inside timm's BatchNorm is kept"
    norms = [m for m in wrapped.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)


@pytest.mark.slow
def test_a_rank_that_ends_takes_its_loader_processes_with_it():
    # The pipe is closed only when the loader's process, which also holds it open, has ended too.
    completed = subprocess.run(
        command("rank_ends"), stdout=subprocess.PIPE, text=True, timeout=60, check=False, env=environment()
    )
    assert (completed.returncode, completed.stdout) == (3, "")


@pytest.mark.gpu
def test_more_processes_than_gpus_are_refused(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    work = Work.at(tmp_path)
    with pytest.raises(ValueError, match=r"train\.processes: 99 need a GPU each"):
        fitted(work, digits(work), TWO.model_copy(update={"processes": 99, "batch_size": 128, "device": "auto"}))
