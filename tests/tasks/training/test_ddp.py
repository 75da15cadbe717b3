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
    """Rank -> process id of those that train in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            # it has ended
            continue
        if str(folder).encode() in command and b"tasks.training.ddp" in command:
            rank = [int(v.partition(b"=")[2]) for v in environment if v.startswith(b"LOCAL_RANK=")]
            found |= {rank[0]: int(process.name)} if rank else {}
    return found


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_the_next_start_ends_where_one_process_would(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    # LeNet-5 has no BatchNorm, of which each process would see its own part on a CPU.
    data = digits(Work.at(tmp_path))
    one = fitted(Work.at(tmp_path), data, TWO.model_copy(update={"processes": 1}))
    work, seen = Work.at(tmp_path), []

    def kill(epoch: int, score: float) -> None:
        if epoch == 1:
            os.kill(ranks(work.scratch)[1], signal.SIGKILL)

    with pytest.raises(
        RuntimeError, match=r"lenet5/train: rank 1 of 2 was ended by SIGKILL; the epochs before are kept"
    ):
        fitted(work, data, TWO, kill)
    assert not ranks(work.scratch)
    two = fitted(work, data, TWO, lambda epoch, score: seen.append(epoch))
    assert seen == list(range(1, TWO.epochs + 1)), "a tuner must be told of the epochs before the interruption too"
    assert "lenet5/train: resumed after epoch 1" in caplog.text
    weights = [models.load(work.store.get(f.artifact)).state_dict() for f in (one, two)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)
    assert [row["loss"] for row in two.epochs] == pytest.approx([row["loss"] for row in one.epochs], abs=1e-3)
    for name in (
        "top1",
        "top5",
        "macro_f1",
        "learning_rate",
    ):
        # of ten epochs: later, a rounding error may turn an image
        values = [[row[name] for row in run.epochs[:20]] for run in (one, two)]
        assert values[1] == pytest.approx(values[0], abs=1e-6), name
    newest = max(work.scratch.glob("*.pt"), key=lambda path: int(path.name.split(".")[1]))
    newest.write_bytes(newest.read_bytes()[:-1])
    three = fitted(work, data, TWO)
    assert f"the checkpoint after epoch {TWO.epochs} is damaged" in caplog.text
    assert models.load(work.store.get(three.artifact)).state_dict().keys() == weights[1].keys()
    for key, value in models.load(work.store.get(three.artifact)).state_dict().items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_rank_tells_its_error(tmp_path):
    work = Work.at(tmp_path)
    wild = TWO.model_copy(update={"learning_rate": 1e3, "schedule": "constant"})
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at epoch \d, step \d+; try a lower learning rate"):
        fitted(work, digits(work), wild)
    assert not ranks(work.scratch)


def test_a_training_that_is_ended_from_outside_ends_its_processes(tmp_path, monkeypatch):
    work = Work.at(tmp_path)
    torchrun = tmp_path / "torchrun"
    said = ddp.MARK + '{"epoch": 1, "score": 0.5}'
    torchrun.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho '{said}'\nexec sleep 60\n")
    torchrun.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(torchrun))
    lived = []

    def end(epoch: int, score: float) -> None:
        lived.append((epoch, score, Path("/proc", (tmp_path / "pid").read_text().strip()).exists()))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(work, digits(work), TWO, end)
    assert lived == [(1, 0.5, True)]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_ranks_are_found_by_their_folder_and_number(tmp_path):
    """The other tests say of a training that has ended that there are none."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", "tasks.training.ddp", str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": "1"}) as process:
        try:
            deadline = time.monotonic() + 20
            # between fork and exec it has another command
            while not ranks(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert ranks(tmp_path) == {1: process.pid}
            assert not ranks(tmp_path / "other")
        finally:
            process.kill()
    assert not ranks(tmp_path)


def test_what_torchrun_and_the_ranks_say_becomes_one_line(tmp_path):
    work = Work.at(tmp_path)
    training = training_of(work, {}, digits(work), TWO, "lenet5")
    told = ddp._error(training, {"error": "OutOfMemoryError", "text": "no room", "rank": 1}, "")
    assert str(told).startswith(
        "lenet5/train: rank 1 of 2 failed: OutOfMemoryError: no room; the epochs before are kept"
    )
    assert isinstance(ddp._error(training, {"error": "ValueError", "text": "x", "rank": 0}, ""), ValueError)
    assert "torchrun failed: no such file" in str(ddp._error(training, None, "a\nno such file\n"))
    log = "".join(f"  rank      : {rank}\n  exitcode  : {code} (pid: 7)\n" for rank, code in ((0, -15), (1, -9)))
    assert "rank 1 of 2 was ended by SIGKILL" in str(ddp._error(training, None, log))


def test_a_message_is_one_write_also_where_output_is_unbuffered():
    # a packet a write
    read, write = os.pipe2(os.O_DIRECT)
    command = [sys.executable, "-u", "-c", "from tasks.training import ddp; ddp._say(error='E', text='t', rank=1)"]
    subprocess.run(command, stdout=write, check=True, cwd=ROOT)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as packets:
        assert packets.read(4096) == b'burnish: {"error": "E", "text": "t", "rank": 1}\n'


def test_on_gpus_batchnorm_is_synchronised_and_what_it_carries_is_kept(monkeypatch):
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, device_ids: model)
    model = warmed_model(name="tf_efficientnet_lite0", num_classes=10, in_channels=3, image_size=32)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        want = model(x)
        made = Processes.wrap(Mock(), model, "cuda:0")
        assert torch.equal(made(x), want), "timm's BatchNorm has the activation in it"
    norms = [m for m in made.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)


@pytest.mark.slow
def test_a_rank_ends_at_once_and_takes_its_loader_processes_with_it():
    # Its output ends when its worker has ended too, which holds the other end of the pipe.
    made = subprocess.run(
        command("rank_ends"), stdout=subprocess.PIPE, text=True, timeout=60, check=False, env=environment()
    )
    assert (made.returncode, made.stdout) == (3, "")


@pytest.mark.gpu
def test_more_processes_than_gpus_are_refused(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    work = Work.at(tmp_path)
    with pytest.raises(ValueError, match=r"train\.processes: 99 need a GPU each"):
        fitted(work, digits(work), TWO.model_copy(update={"processes": 99, "batch_size": 128, "device": "auto"}))
