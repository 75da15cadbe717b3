from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import polars
import pytest
import torch
from torch import nn

import models
from tasks.caching.work import Work
from tasks.prune import prune, prune_channels
from tasks.records import Model, Prune, Train, Trained
from tasks.training.evaluation import evaluate
from tasks.training.fit import fit
from tasks.training.weights import cost
from tests.support.digits import digits, stored_model, warmed_model
from tests.support.trainings import training_of

if TYPE_CHECKING:
    from pathlib import Path

LENET = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}
NARROW = {"name": "resnet34", "num_classes": 10, "in_channels": 3, "image_size": 8, "width": 16}
WIDE = {**NARROW, "width": 64, "num_classes": 7}


def outputs(model: nn.Module) -> list[int]:
    return [
        m.out_channels if isinstance(m, nn.Conv2d) else m.out_features
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]


def example(architecture: dict, batch: int = 1) -> torch.Tensor:
    size = architecture["image_size"]
    return torch.randn(batch, architecture["in_channels"], size, size)


def test_cost_counts_lenet5_as_published() -> None:
    model = models.build("lenet5", num_classes=10, in_channels=1, image_size=32)
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    assert cost(model, torch.zeros(1, 1, 32, 32)) == (61_706, convolutions + 400 * 120 + 120 * 84 + 84 * 10)
    assert model.training


@pytest.mark.parametrize("architecture", [LENET, NARROW, WIDE], ids=["lenet5", "w16", "w64"])
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_pruned_weights_round_trip_and_are_fewer(architecture: dict, ratio: float, tmp_path: Path) -> None:
    model, images = warmed_model(**architecture), example(architecture, 3)
    whole, before = model(images), cost(model, images[:1])
    prune_channels(model, images[:1], ratio, 8)
    after = cost(model, images[:1])
    assert after[0] < before[0] * (1 - ratio / 2)
    assert after[1] < before[1]
    assert outputs(model)[-1] == architecture["num_classes"]
    want = model(images)
    assert want.shape == whole.shape
    models.save(model, tmp_path / "pruned.safetensors", architecture)
    again = models.load(tmp_path / "pruned.safetensors")
    assert torch.equal(again(images), want)
    assert outputs(again) == outputs(model)
    assert cost(again, images[:1]) == after


def test_channels_are_rounded_to_the_nearest_multiple_and_narrow_layers_stay() -> None:
    quarter, half = warmed_model(**LENET), warmed_model(**LENET)
    prune_channels(quarter, example(LENET), 0.25, 8)
    prune_channels(half, example(LENET), 0.5, 8)
    # of 6, 16, 120, 84, 10; 12 of 16 is as near to 16 as to 8
    assert outputs(quarter) == [6, 16, 88, 64, 10]
    assert outputs(half) == [6, 8, 64, 40, 10]


def test_layers_on_a_shortcut_lose_the_same_channels() -> None:
    model = warmed_model(**NARROW)
    prune_channels(model, example(NARROW), 0.25, 8)
    assert sorted(set(outputs(model)[:-1])) == [16, 24, 48, 96]
    assert all(n % 8 == 0 for n in outputs(model)[:-1])


def test_channels_whose_weights_are_nothing_go_first_and_nothing_changes() -> None:
    model, images = warmed_model(**LENET), example(LENET, 4)
    with torch.no_grad():
        # of conv2; flattened, each is four inputs of fc1
        dead = [0, 3, 4, 7, 8, 11, 12, 15]
        model.conv2.weight[dead] = 0
        model.conv2.bias[dead] = 0
        model.fc1.weight.view(120, 16, -1)[:, dead] = 0
        for layer, after, kept in ((model.fc1, model.fc2, 64), (model.fc2, model.fc3, 40)):
            layer.weight[kept:] = 0
            layer.bias[kept:] = 0
            after.weight[:, kept:] = 0
    want = model(images)
    prune_channels(model, images[:1], 0.5, 8)
    assert outputs(model) == [6, 8, 64, 40, 10]
    torch.testing.assert_close(model(images), want)


def test_a_ratio_that_rounding_undoes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio 0\.05 with round_to 128 takes no channel out .* larger ratio"):
        prune_channels(warmed_model(**LENET), example(LENET), 0.05, 128)


# a run that was cut off prunes again and resumes
def test_the_same_weights_are_pruned_to_the_same_weights() -> None:
    first, second = warmed_model(**NARROW), warmed_model(**NARROW)
    prune_channels(first, torch.zeros(1, 3, 8, 8), 0.25, 8)
    prune_channels(second, torch.ones(1, 3, 8, 8), 0.25, 8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_prune_returns_the_fine_tuned_weights_and_records_those_before(tmp_path: Path) -> None:
    work = Work.at(tmp_path, "prune")
    data = digits(work)
    start = Train(epochs=8, batch_size=16, learning_rate=0.05, channels_last=False, device="cpu")
    network = models.build(**LENET)
    fitted = fit(training_of(work, LENET, data, start, "lenet5"), network)
    parent = stored_model(work, "lenet5", **LENET).model_copy(update={"artifact": fitted.artifact})
    trained = Trained(variant=parent, train=start, validation_macro_f1=fitted.validation_macro_f1)

    settings = Prune(ratios=(0.5,), epochs=3, learning_rate=0.02)
    pruned = prune(work, Model(name="lenet5"), data, trained, settings, 0.5)

    variant, (raw,) = pruned.variant, pruned.base
    assert (variant.name, variant.stage, variant.parent) == ("lenet5/prune-0.5", "prune", "lenet5/train")
    assert (raw.name, raw.parent) == ("lenet5/prune-0.5-raw", "lenet5/train")
    assert (variant.setting, variant.benchmark, raw.benchmark) == ("0.5", True, False)
    assert pruned.train == start.model_copy(update={"epochs": 3, "patience": 3, "learning_rate": 0.02})

    model = models.load(work.store.get(variant.artifact))
    assert outputs(model) == [6, 8, 64, 40, 10]
    assert (variant.parameters, variant.macs) == cost(model, example(LENET)) == (raw.parameters, raw.macs)
    rows = {r["name"]: r for r in polars.read_parquet(work.store.get(pruned.tables["variants"])).to_dicts()}
    assert set(rows) == {variant.name, raw.name}
    for stored_variant in (variant, raw):
        scores = evaluate(models.load(work.store.get(stored_variant.artifact)), data, work.store, "validation")
        row = rows[stored_variant.name]
        assert row["validation_top1"] == pytest.approx(scores.top1)
        assert row["validation_macro_f1"] == pytest.approx(scores.macro_f1)
        assert (row["sha256"], row["size_bytes"]) == (
            stored_variant.artifact.sha256,
            stored_variant.artifact.size_bytes,
        )
    assert rows[variant.name]["validation_macro_f1"] == pytest.approx(pruned.validation_macro_f1)
    assert pruned.validation_macro_f1 > rows[raw.name]["validation_macro_f1"]
    epochs = polars.read_parquet(work.store.get(pruned.tables["epochs"]))
    assert set(epochs["variant"]) == {variant.name}
    assert epochs["epoch"].max() == 3


def test_prune_says_what_it_took_and_what_that_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Work.at(tmp_path, "prune")
    data = digits(work)
    trained = Trained(
        variant=stored_model(work, "lenet5", **LENET),
        validation_macro_f1=0.5,
        train=Train(batch_size=64, channels_last=False, device="cpu"),
    )
    with caplog.at_level(logging.INFO):
        prune(work, Model(name="lenet5"), data, trained, Prune(epochs=1), 0.5)
    assert "lenet5/prune-0.5: parameters 21386 -> 6486, multiply-accumulates 66600 -> 33808" in caplog.text
