"""The prune stage: the channels that it removes, the fine-tuning, and the variants and rows that it records."""

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


def widths(model: nn.Module) -> list[int]:
    """Return the number of output channels of each convolution and linear layer."""
    return [
        m.out_channels if isinstance(m, nn.Conv2d) else m.out_features
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]


def random_images(architecture: dict, batch: int = 1) -> torch.Tensor:
    size = architecture["image_size"]
    return torch.randn(batch, architecture["in_channels"], size, size)


def test_cost_counts_lenet5_as_published() -> None:
    model = models.build("lenet5", num_classes=10, in_channels=1, image_size=32)
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    assert cost(model, torch.zeros(1, 1, 32, 32)) == (61_706, convolutions + 400 * 120 + 120 * 84 + 84 * 10)
    assert model.training


@pytest.mark.parametrize("architecture", [LENET, NARROW, WIDE], ids=["lenet5", "w16", "w64"])
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_a_pruned_model_has_fewer_weights_and_gives_equal_logits_after_saving_and_loading(
    architecture: dict, ratio: float, tmp_path: Path
) -> None:
    model, images = warmed_model(**architecture), random_images(architecture, 3)
    unpruned_logits, unpruned_cost = model(images), cost(model, images[:1])
    prune_channels(model, images[:1], ratio, 8)
    pruned_cost = cost(model, images[:1])
    assert pruned_cost[0] < unpruned_cost[0] * (1 - ratio / 2)
    assert pruned_cost[1] < unpruned_cost[1]
    assert widths(model)[-1] == architecture["num_classes"]
    expected = model(images)
    assert expected.shape == unpruned_logits.shape
    models.save(model, tmp_path / "pruned.safetensors", architecture)
    loaded = models.load(tmp_path / "pruned.safetensors")
    assert torch.equal(loaded(images), expected)
    assert widths(loaded) == widths(model)
    assert cost(loaded, images[:1]) == pruned_cost


def test_widths_are_rounded_to_the_nearest_multiple_and_narrow_layers_are_not_pruned() -> None:
    quarter, half = warmed_model(**LENET), warmed_model(**LENET)
    prune_channels(quarter, random_images(LENET), 0.25, 8)
    prune_channels(half, random_images(LENET), 0.5, 8)
    # Unpruned, the widths are 6, 16, 120, 84 and 10. The width 12 is as near to 16 as to 8, and is rounded to 16.
    assert widths(quarter) == [6, 16, 88, 64, 10]
    assert widths(half) == [6, 8, 64, 40, 10]


def test_layers_joined_by_a_shortcut_lose_equally_many_channels() -> None:
    model = warmed_model(**NARROW)
    prune_channels(model, random_images(NARROW), 0.25, 8)
    assert sorted(set(widths(model)[:-1])) == [16, 24, 48, 96]
    assert all(n % 8 == 0 for n in widths(model)[:-1])


def test_channels_with_zero_weights_are_pruned_first_which_leaves_the_logits_unchanged() -> None:
    model, images = warmed_model(**LENET), random_images(LENET, 4)
    with torch.no_grad():
        # Channels of conv2. Flattened, each of them is four inputs of fc1.
        dead = [0, 3, 4, 7, 8, 11, 12, 15]
        model.conv2.weight[dead] = 0
        model.conv2.bias[dead] = 0
        model.fc1.weight.view(120, 16, -1)[:, dead] = 0
        for layer, next_layer, width in ((model.fc1, model.fc2, 64), (model.fc2, model.fc3, 40)):
            layer.weight[width:] = 0
            layer.bias[width:] = 0
            next_layer.weight[:, width:] = 0
    expected = model(images)
    prune_channels(model, images[:1], 0.5, 8)
    assert widths(model) == [6, 8, 64, 40, 10]
    torch.testing.assert_close(model(images), expected)


def test_a_ratio_that_is_too_small_for_the_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio 0\.05 with round_to 128 takes no channel out .* larger ratio"):
        prune_channels(warmed_model(**LENET), random_images(LENET), 0.05, 128)


# A run that was cut off prunes again before it resumes the fine-tuning.
def test_equal_weights_are_pruned_equally_whatever_the_example_images() -> None:
    first, second = warmed_model(**NARROW), warmed_model(**NARROW)
    prune_channels(first, torch.zeros(1, 3, 8, 8), 0.25, 8)
    prune_channels(second, torch.ones(1, 3, 8, 8), 0.25, 8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_prune_returns_the_fine_tuned_variant_and_records_the_one_before_fine_tuning(tmp_path: Path) -> None:
    work = Work.at(tmp_path, "prune")
    data = digits(work)
    train_settings = Train(epochs=8, batch_size=16, learning_rate=0.05, channels_last=False, device="cpu")
    network = models.build(**LENET)
    fitted = fit(training_of(work, LENET, data, train_settings, "lenet5"), network)
    parent = stored_model(work, "lenet5", **LENET).model_copy(update={"artifact": fitted.artifact})
    trained = Trained(variant=parent, train=train_settings, validation_macro_f1=fitted.validation_macro_f1)

    settings = Prune(ratios=(0.5,), epochs=3, learning_rate=0.02)
    pruned = prune(work, Model(name="lenet5"), data, trained, settings, 0.5)

    variant, (raw,) = pruned.variant, pruned.base
    assert (variant.name, variant.stage, variant.parent) == ("lenet5/prune-0.5", "prune", "lenet5/train")
    assert (raw.name, raw.parent) == ("lenet5/prune-0.5-raw", "lenet5/train")
    assert (variant.setting, variant.benchmark, raw.benchmark) == ("0.5", True, False)
    assert pruned.train == train_settings.model_copy(update={"epochs": 3, "patience": 3, "learning_rate": 0.02})

    model = models.load(work.store.get(variant.artifact))
    assert widths(model) == [6, 8, 64, 40, 10]
    assert (variant.parameters, variant.macs) == cost(model, random_images(LENET)) == (raw.parameters, raw.macs)
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


def test_prune_logs_parameters_and_multiply_accumulates_before_and_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
