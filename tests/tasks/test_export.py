"""The export stage: forms agree with their parent and carry its metadata, or are failed variants with the reason."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy
import onnx
import polars
import pytest
import torch

import models
from tasks import export as stage
from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.export import export
from tasks.forms.parity import parity
from tasks.records import Export, Forms, Prepared, Variant
from tasks.runtimes import load
from tests.support.digits import digits, stored_model

if TYPE_CHECKING:
    from pathlib import Path

RUNTIMES = {"onnx": "onnxruntime", "torchscript": "torchscript"}
SETTINGS = Export(images=20, tolerance=1e-4)
ARCHITECTURES = {
    "lenet5": {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8},
    "resnet34-w8": {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 8},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("export"), "export")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def parent_and_forms(request: pytest.FixtureRequest, work: Work, data: Prepared) -> tuple[Variant, Forms]:
    """A stored model, and its ONNX and TorchScript forms."""
    parent = stored_model(work, request.param, **ARCHITECTURES[request.param])
    return parent, export(work, data, parent, SETTINGS)


def rows_by_name(work: Work, forms: Forms) -> dict[str, dict]:
    return {row["name"]: row for row in polars.read_parquet(work.store.get(forms.tables["variants"])).to_dicts()}


def test_every_form_records_its_parent_its_file_and_its_parity(
    parent_and_forms: tuple[Variant, Forms], work: Work
) -> None:
    parent, forms = parent_and_forms
    assert [v.name for v in forms.variants] == [f"{parent.name}/onnx", f"{parent.name}/torchscript"]
    for variant in forms.variants:
        assert (variant.status, variant.error, variant.benchmark) == ("ok", None, True)
        assert (variant.parent, variant.model, variant.stage) == (parent.name, parent.model, "export")
        assert (variant.parameters, variant.macs, variant.precision) == (1234, 5678, "fp32")
        row = rows_by_name(work, forms)[variant.name]
        assert (row["sha256"], row["size_bytes"]) == (variant.artifact.sha256, variant.artifact.size_bytes)
        assert row["parity"] <= row["tolerance"] == 1e-4


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_forms_agree_with_the_parent_at_any_batch_size(
    parent_and_forms: tuple[Variant, Forms], work: Work, data: Prepared, batch: int
) -> None:
    parent, forms = parent_and_forms
    images = normalise(load_arrays(work.store, data)[0][-batch:], data.mean, data.std)
    with torch.inference_mode():
        expected = models.load(work.store.get(parent.artifact))(torch.from_numpy(images)).numpy()
    for variant in forms.variants:
        session = load(RUNTIMES[variant.format]).open(work.store.get(variant.artifact), "cpu", batch, 1)
        logits = session.run(images)
        assert logits.shape == expected.shape
        numpy.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())


def test_the_onnx_form_is_one_valid_file_with_named_inputs_and_outputs(
    parent_and_forms: tuple[Variant, Forms], work: Work, data: Prepared
) -> None:
    path = work.store.get(parent_and_forms[1].variants[0].artifact)
    assert path.is_file()
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["input"]
    assert [o.name for o in graph.output] == ["logits"]
    batch, channels, height, width = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert (channels.dim_value, height.dim_value, width.dim_value) == (1, 8, 8)
    assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10
    assert not any(t.external_data for t in graph.initializer)
    # The batch norms are folded into the convolutions.
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_forms_carry_the_class_names_and_the_mean_and_std_of_the_images(
    parent_and_forms: tuple[Variant, Forms], work: Work, data: Prepared
) -> None:
    onnx_file, torchscript_file = (work.store.get(v.artifact) for v in parent_and_forms[1].variants)
    onnx_metadata = {p.key: p.value for p in onnx.load(onnx_file).metadata_props}
    torchscript_metadata = {"classes": "", "mean": "", "std": ""}
    torch.jit.load(torchscript_file, _extra_files=torchscript_metadata)
    assert b"site-packages" not in onnx_file.read_bytes(), (
        "the file must hold no stack traces, which contain paths of this machine"
    )
    for metadata in (onnx_metadata, torchscript_metadata):
        assert json.loads(metadata["classes"]) == list(data.classes)
        assert json.loads(metadata["mean"]) == pytest.approx(data.mean)
        assert json.loads(metadata["std"]) == pytest.approx(data.std)


def test_onnx_can_be_preprocessed_for_quantization(
    parent_and_forms: tuple[Variant, Forms], work: Work, tmp_path: Path
) -> None:
    from onnxruntime.quantization import quant_pre_process

    quant_pre_process(str(work.store.get(parent_and_forms[1].variants[0].artifact)), str(tmp_path / "ready.onnx"))
    session = load("onnxruntime").open(tmp_path / "ready.onnx", "cpu", 8, 1)
    for batch in (1, 8):
        assert session.run(numpy.zeros((batch, 1, 8, 8), numpy.float32)).shape == (batch, 10)


def test_a_difference_above_the_tolerance_is_a_failed_variant(
    work: Work, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = stored_model(work, "lenet5", **ARCHITECTURES["lenet5"])
    write = stage.FORMS["torchscript"][0]

    def write_with_offset(model: torch.nn.Module, *rest: object) -> Path:
        with torch.no_grad():
            model.fc3.bias += 0.1
        return write(model, *rest)

    monkeypatch.setitem(stage.FORMS, "torchscript", (write_with_offset, load("torchscript")))
    forms = export(work, data, parent, SETTINGS)
    good, bad = forms.variants
    assert (good.status, bad.status, bad.artifact, bad.benchmark) == ("ok", "failed", None, False)
    assert "logits differ from lenet5/train by 0." in bad.error
    assert bad.error.endswith("of its largest one on 20 validation images; tolerance 0.0001")
    row = rows_by_name(work, forms)[bad.name]
    assert (row["status"], row["error"], row["parity"], row["path"]) == ("failed", bad.error, None, None)


def test_an_exporter_that_raises_gives_a_failed_variant_and_the_next_form_is_written(
    work: Work, data: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("\x1b[96mno such\noperator\x1b[0m")

    monkeypatch.setattr(torch.onnx, "export", fail)
    failed_form, next_form = export(
        work, data, stored_model(work, "lenet5", **ARCHITECTURES["lenet5"]), SETTINGS
    ).variants
    assert (failed_form.status, failed_form.error) == ("failed", "RuntimeError: no such operator")
    assert next_form.status == "ok"
    assert "Traceback" in caplog.text


def test_the_output_of_exporters_goes_to_the_log_and_not_to_the_terminal(
    work: Work,
    data: Prepared,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = stage.FORMS["torchscript"][0]

    def print_and_write(*rest: object) -> Path:
        print("step 1 of 3")
        return write(*rest)

    monkeypatch.setitem(stage.FORMS, "torchscript", (print_and_write, load("torchscript")))
    # If Prefect is set up in this process, its handlers write log lines to the terminal.
    root = logging.getLogger()
    handlers = [handler for handler in root.handlers if not type(handler).__module__.startswith("prefect")]
    monkeypatch.setattr(root, "handlers", handlers)
    with caplog.at_level(logging.DEBUG):
        export(work, data, stored_model(work, "lenet5", **ARCHITECTURES["lenet5"]), Export(formats=("torchscript",)))
    assert capfd.readouterr() == ("", "")
    assert "step 1 of 3" in caplog.text


def test_weights_too_large_for_one_onnx_file_are_stored_as_a_folder_with_its_whole_size(
    work: Work, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    parent = stored_model(work, "lenet5", **ARCHITECTURES["lenet5"])
    (variant,) = export(work, data, parent, Export(formats=("onnx",))).variants
    path = work.store.get(variant.artifact)
    assert path.is_dir()
    assert variant.artifact.size_bytes == sum(p.stat().st_size for p in path.iterdir()) > 4 * 21_386
    session = load("onnxruntime").open(path, "cpu", 8, 1)
    assert session.run(numpy.zeros((8, 1, 8, 8), numpy.float32)).shape == (8, 10)


class ConstantSession:
    """A session of a runtime that returns two logits of one value for each image."""

    provider = "none"

    def __init__(self, value: float) -> None:
        self.value = value

    def run(self, inputs: numpy.ndarray) -> numpy.ndarray:
        return numpy.full((len(inputs), 2), self.value, numpy.float32)

    def close(self) -> None: ...


def test_parity_is_relative_to_the_parents_largest_logit() -> None:
    images = numpy.zeros((9, 1, 2, 2), numpy.float32)
    assert parity(ConstantSession(4), ConstantSession(3), images) == pytest.approx(0.25)
    assert numpy.isnan(parity(ConstantSession(4), ConstantSession(numpy.nan), images))


@pytest.mark.parametrize("value", [0.0, numpy.nan, numpy.inf])
def test_parity_refuses_a_parent_whose_logits_are_zero_or_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not finite or all zero"):
        parity(ConstantSession(value), ConstantSession(value), numpy.zeros((9, 1, 2, 2), numpy.float32))


def test_normalise_scales_each_channel_and_returns_a_contiguous_array() -> None:
    images = numpy.zeros((2, 3, 3, 3), numpy.uint8)
    images[..., 1] = 255
    normalised = normalise(images, (0.0, 0.5, 0.25), (1.0, 0.25, 0.5))
    assert (normalised.dtype, normalised.shape, normalised.flags.c_contiguous) == (numpy.float32, (2, 3, 3, 3), True)
    assert numpy.allclose(normalised.mean((0, 2, 3)), (0, 2, -0.5))
