"""Optimizers, schedules, the moving average of weights, gradient checkpointing, and the search for a batch size."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import models
from tasks.caching.work import Work
from tasks.records import Train
from tasks.training import batchsize
from tasks.training.batchsize import largest
from tasks.training.checkpointing import blocks, checkpoint_blocks
from tasks.training.fit import fit
from tasks.training.loop import TrainingLoop
from tasks.training.optimizers import Average, Optimizer, schedule
from tests.support.digits import digits, warmed_model
from tests.support.programs import command, environment
from tests.support.trainings import training_of

NARROW = {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 8}
LENET = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}


def disabled_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def trained(work: Work, architecture: dict, **settings: object):
    torch.manual_seed(0)
    train_settings = Train(**{"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "device": "cpu", **settings})
    return fit(training_of(work, architecture, digits(work), train_settings), models.build(**architecture))


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({"schedule": "one_cycle"}, {0.125: 0.5, 0.25: 1, 0.625: 0.5, 1: 0}),
        ({"schedule": "cosine"}, {0.025: 0.5, 0.05: 1, 0.525: 0.5, 1: 0}),
        ({"schedule": "constant"}, {0.01: 1, 1: 1}),
        ({"schedule": "constant", "warmup": 0.2}, {0.1: 0.5, 0.2: 1, 1: 1}),
        ({"schedule": "cosine", "warmup": 0.0}, {0: 1, 0.5: 0.5, 1: 0}),
    ],
)
def test_a_schedule_warms_up_linearly_and_then_follows_its_curve(settings, points):
    share = schedule(Train(**settings))
    assert [share(done) for done in points] == pytest.approx(list(points.values()), abs=1e-9)


def test_a_fused_optimizer_takes_the_steps_of_the_plain_optimizer():
    # AdamW's first steps have the sign of the gradient alone, which rounding changes where a gradient is about 0.
    for name, tolerance in (("sgd", 1e-6), ("adamw", 1e-3)):
        weights = []
        for fused in (True, False):
            model = warmed_model(**NARROW).train()
            optimizer = Optimizer(model, Train(optimizer=name, fused=fused), disabled_scaler())
            assert {bool(part.defaults["fused"]) for part in optimizer.parts} == {fused}
            assert name != "sgd" or optimizer.parts[0].defaults["nesterov"]
            for step in range(3):
                torch.manual_seed(step)
                model(torch.randn(8, 1, 8, 8)).square().mean().backward()
                optimizer.step(0.01)
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        torch.testing.assert_close(*weights, rtol=1e-4, atol=tolerance)


def test_a_first_step_that_fp16_skips_leaves_no_momentum():
    # In this mode PyTorch fills uninitialised memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        for fused in (True, False):
            model = nn.Linear(3, 2, bias=False)
            scaler = torch.amp.GradScaler("cpu")
            before = model.weight.detach().clone()
            optimizer = Optimizer(model, Train(optimizer="sgd", weight_decay=0.0, fused=fused), scaler)
            for gradient in (torch.inf, 1.0):
                model.weight.grad = scaler.scale(torch.full_like(before, gradient))
                optimizer.step(0.1)
            # The step of Nesterov's method is the gradient plus 0.9 times the momentum, which is the gradient here.
            torch.testing.assert_close(model.weight.detach(), before - 0.1 * 1.9)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_muon_orthogonalises_the_steps_of_filters_and_leaves_other_weights_to_adamw(layout):
    model = warmed_model(**NARROW).train().to(memory_format=layout)
    optimizer = Optimizer(model, Train(optimizer="muon", weight_decay=0.0), disabled_scaler())
    _, adamw = optimizer.parts
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [id(w) for _, w in optimizer.matrices] == [id(w) for w in convolutions]
    assert sum(len(g["params"]) for g in adamw.param_groups) == len(list(model.parameters())) - len(convolutions)
    before = convolutions[5].detach().clone()
    head = model.fc.weight.detach().clone()
    model(torch.randn(16, 1, 8, 8)).square().mean().backward()
    optimizer.step(0.01)
    change = (convolutions[5].detach() - before).flatten(1)
    singular = torch.linalg.svdvals(change) / (0.01 * 0.2 * max(change.shape) ** 0.5)
    # Newton-Schulz iterations leave singular values from 0.7 to 1.2.
    assert singular.min() > 0.5 and singular.max() < 1.3
    assert not torch.equal(model.fc.weight, head)
    assert all(p.grad is None for p in model.parameters())


def test_muon_leaves_depthwise_filters_and_the_head_to_adamw():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 3)
    )
    optimizer = Optimizer(model, Train(optimizer="muon"), disabled_scaler())
    assert [w.shape for _, w in optimizer.matrices] == [(8, 4, 1, 1), (6, 8)]


def test_the_moving_average_follows_weights_and_statistics_by_its_decay():
    model = warmed_model(**NARROW).train()
    average = Average(model, 0.5)
    before = {k: v.clone() for k, v in average.module.state_dict().items()}
    # The decay rises as (1 + t) / (10 + t) until it reaches the 0.5 of the settings.
    for _ in range(20):
        average.update()
    assert all(torch.allclose(v, before[k]) for k, v in average.module.state_dict().items())
    with torch.no_grad():
        model.fc.weight += 1
        model.bn1.running_mean += 1
        model.bn1.num_batches_tracked += 1
    average.update()
    after = average.module.state_dict()
    for key in ("fc.weight", "bn1.running_mean"):
        torch.testing.assert_close(after[key], before[key] + 0.5)
    assert after["bn1.num_batches_tracked"] == before["bn1.num_batches_tracked"] + 1


def test_the_moving_average_of_the_weights_is_evaluated_and_kept(tmp_path):
    work = Work.at(tmp_path)
    torch.manual_seed(0)
    training = training_of(work, LENET, digits(work), Train(epochs=1, batch_size=32, ema=0.9, device="cpu"))
    loop = TrainingLoop(training, models.build(**LENET))
    loop.go()
    assert not torch.equal(loop.model.fc3.weight, loop.average.module.fc3.weight)
    assert torch.equal(loop.state.best_weights["fc3.weight"], loop.average.module.fc3.weight)


@pytest.mark.parametrize("change", [{"ema": 0.9}, {"optimizer": "muon", "learning_rate": 0.005}], ids=["ema", "muon"])
def test_the_moving_average_and_muon_resume_to_the_same_weights(tmp_path, change):
    uninterrupted = trained(Work.at(tmp_path), LENET, epochs=3, **change)
    work = Work.at(tmp_path)
    settings = Train(epochs=3, batch_size=32, device="cpu", **{"learning_rate": 0.05, **change})
    data = digits(work)

    class Interruption(Exception):
        pass

    def interrupt(epoch: int, score: float) -> None:
        if epoch == 2:
            raise Interruption

    for on_epoch in (interrupt, None):
        torch.manual_seed(0)
        training = training_of(work, LENET, data, settings)
        loop = TrainingLoop(training, models.build(**LENET))
        try:
            loop.go(on_epoch)
        except Interruption:
            continue
    # The training above has finished, so that this one only loads its result.
    resumed = trained(work, LENET, epochs=3, **change)
    assert resumed.artifact.sha256 == uninterrupted.artifact.sha256


def test_gradient_checkpointing_changes_neither_weights_nor_statistics(tmp_path):
    settings = {"augment": "crop", "epochs": 1}
    plain, checkpointed = (trained(Work.at(tmp_path), NARROW, checkpointing=c, **settings) for c in (False, True))
    assert plain.artifact.sha256 == checkpointed.artifact.sha256


@pytest.mark.slow
def test_gradient_checkpointing_lowers_peak_memory():
    plain, checkpointed = (
        int(subprocess.check_output(command("peak_memory", c), env=environment())) for c in (False, True)
    )
    assert checkpointed < 0.7 * plain, f"{checkpointed} of {plain} bytes"


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet50", 16), ("densenet121", 4), ("efficientnet_b0", 16), ("convnext_tiny", 18), ("vit_b_16", 12)],
)
def test_the_blocks_of_known_models_are_found(name, count):
    from torchvision.models import get_model

    with torch.device("meta"):
        assert len(blocks(get_model(name))) == count


def test_a_model_without_blocks_is_not_checkpointed():
    with pytest.raises(ValueError, match=r"train\.checkpointing: lenet5 has no blocks"):
        checkpoint_blocks(models.build(**LENET), "lenet5")


def test_the_largest_batch_that_fits_a_gpu_is_found_by_trial(monkeypatch):
    monkeypatch.setattr(batchsize, "SECONDS", 0)
    tried = []

    def step(size: int) -> None:
        tried.append(size)
        if size > 100:
            raise torch.OutOfMemoryError

    assert largest(step, "cuda:0", 50_000) == 64
    assert max(tried) == 128
    assert largest(step, "cuda:0", 40) == 32
    full = Mock(side_effect=[None, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")])
    assert largest(full, "cuda:0", 50_000) == 8
    with pytest.raises(RuntimeError, match="another"):
        largest(Mock(side_effect=RuntimeError("another")), "cuda:0", 50_000)
    with pytest.raises(ValueError, match=r"train\.batch_size: not even 8 images fit the memory of cuda:0"):
        largest(lambda size: step(1000), "cuda:0", 50_000)


def test_the_batch_on_a_cpu_grows_while_the_images_per_second_rise(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(batchsize, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def step(size: int) -> None:
        clock.now += 0.004 + max(0, size - 32) / 1000

    assert largest(step, "cpu", 50_000) == 32


def test_an_automatic_batch_size_is_kept_when_training_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.training.batchsize.largest", lambda step, device, images: step(8) or 32)
    first = trained(Work.at(tmp_path), NARROW, batch_size="auto")
    assert {row["batch_size"] for row in first.epochs} == {32}
    assert first.artifact.sha256 == trained(Work.at(tmp_path), NARROW, batch_size=32).artifact.sha256
    work = Work.at(tmp_path)
    trained(work, NARROW, batch_size="auto")
    monkeypatch.setattr("tasks.training.batchsize.largest", lambda step, device, images: 64)
    assert {row["batch_size"] for row in trained(work, NARROW, batch_size="auto").epochs} == {32}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 0}, "expected auto or a whole number from 1"),
        ({"batch_size": True}, "expected auto or a whole number from 1"),
        ({"processes": 2, "device": "cuda:1"}, "device must be auto or cpu"),
        ({"processes": 4, "batch_size": 3}, "less than an image for each of 4 processes"),
        ({"compile": True, "checkpointing": True}, "set checkpointing or compile to false"),
        ({"ema": 1.0}, "less than 1"),
        ({"warmup": 1.0}, "less than 1"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_in_one_line(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Train(**settings)


def test_an_upsampled_model_takes_small_images_and_keeps_its_weights_names(tmp_path):
    architecture = {**NARROW, "upsample": 32}
    model = warmed_model(**architecture)
    assert model.state_dict().keys() == models.build(**NARROW).state_dict().keys()
    x = torch.randn(2, 1, 8, 8)
    large = nn.functional.interpolate(x, (32, 32), mode="bilinear")
    models.save(model, tmp_path / "a.safetensors", architecture)
    plain = models.build(**{**NARROW, "image_size": 32}).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(models.load(tmp_path / "a.safetensors")(x), plain(large))
