"""The quantize stage on a small trained ResNet and on real digits, executed by ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import polars
import pytest
import torch

import models
from tasks.caching.work import Work
from tasks.datasets._arrays import Arrays, load_arrays
from tasks.datasets._pixels import normalise
from tasks.export import export
from tasks.forms.choice import TIE, Form, choose
from tasks.forms.int8 import Rows, Scores, sample
from tasks.quantize import quantize
from tasks.quantizers import _onnxruntime, onnxruntime_dynamic, onnxruntime_static
from tasks.records import Export, Forms, Prepared, Quantize, Variant
from tasks.runtimes import onnxruntime as runtime
from tasks.tables import frames
from tasks.tables.schema import TABLES
from tests.support.digits import digits

if TYPE_CHECKING:
    from collections.abc import Iterator

STATIC, DYNAMIC = onnxruntime_static.SETTINGS, onnxruntime_dynamic.SETTINGS
SETTING_NAMES = (*STATIC, *DYNAMIC)
RUNTIMES = ("onnxruntime",)
MIN_ACCURACY = 0.94
"""Least share of the validation digits that the parent knows. Agreement with a poor parent would prove nothing."""
ARCHITECTURE: dict[str, Any] = {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 8}


WARNING_TEXT = "out-of-range"
"""Part of ONNX Runtime's warning about weights that it cannot quantize."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("quantize"), "quantize")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work, rows=1500)


@pytest.fixture(scope="module")
def parent(work: Work, data: Prepared) -> Variant:
    """A ResNet trained on the training digits until it knows the validation digits, as fp32 ONNX."""
    arrays = load_arrays(work.store, data)
    train, validation = arrays.rows_of("train"), arrays.rows_of("validation")
    inputs = torch.tensor(normalise(arrays.images, data.mean, data.std))
    targets = torch.tensor(arrays.labels)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # More threads do not speed up so small a model, and slow it down beside other processes.
    torch.set_num_threads(1)
    model = models.build(**ARCHITECTURE)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    # The number of epochs depends on the CPU's arithmetic: after 8 the model knew 0.88 of the digits on one CPU, and
    # over 0.9 on others.
    for _ in range(40):
        train_one_epoch(model, optimizer, inputs[train], targets[train])
        if accuracy(model, inputs[validation], targets[validation]) > MIN_ACCURACY:
            break
    with work.store.temporary() as folder:
        models.save(model, folder / "weights.safetensors", ARCHITECTURE)
        artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
    trained = Variant(
        name="r/train", model="r", stage="train", format="safetensors", artifact=artifact, parameters=9, macs=8
    )
    variant = export(work, data, trained, Export(formats=("onnx",))).variants[0]
    torch.set_num_threads(threads)
    assert variant.status == "ok", variant.error
    return variant


def train_one_epoch(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor
) -> None:
    """Train a model for one epoch."""
    model.train()
    for batch in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()


def accuracy(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of the images that a model classifies rightly."""
    with torch.no_grad():
        return (model.eval()(inputs).argmax(1) == targets).float().mean().item()


@pytest.fixture(scope="module")
def int8_forms(
    work: Work, data: Prepared, parent: Variant, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forms]:
    """Forms of every setting, made in an empty current folder, which must be empty afterwards."""
    original_folder, empty = Path.cwd(), tmp_path_factory.mktemp("cwd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(empty)
        handlers = logging.getLogger().handlers.copy()
        yield quantize(work, data, parent, Quantize(settings=STATIC, calibration_images=100), RUNTIMES)
        assert logging.getLogger().handlers == handlers
        assert Path.cwd() == empty and not list(empty.iterdir())
    assert Path.cwd() == original_folder


def rows(work: Work, forms: Forms) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in polars.read_parquet(work.store.get(forms.tables["variants"])).to_dicts()}


def logits(work: Work, data: Prepared, variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    """Return a form's logits of the validation images, and the labels of these images."""
    assert variant.artifact is not None
    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("validation")
    session = runtime.open(work.store.get(variant.artifact), "cpu", 100, 1)
    return session.run(normalise(arrays.images[rows], data.mean, data.std)), arrays.labels[rows]


def test_every_setting_gives_a_form_with_its_lineage_and_cost(int8_forms: Forms, parent: Variant) -> None:
    assert [v.name for v in int8_forms.variants] == [f"{parent.name}/int8-{name}" for name in SETTING_NAMES]
    for variant, setting in zip(int8_forms.variants, SETTING_NAMES, strict=True):
        assert (variant.status, variant.error, variant.setting) == ("ok", None, setting)
        assert (variant.parent, variant.stage, variant.format, variant.precision) == (
            parent.name,
            "quantize",
            "onnx",
            "int8",
        )
        assert (variant.parameters, variant.macs) == (9, 8)


@pytest.mark.parametrize("setting", SETTING_NAMES)
def test_each_form_classifies_nearly_all_images_as_its_parent_does(
    int8_forms: Forms, work: Work, data: Prepared, parent: Variant, setting: str
) -> None:
    parent_logits, labels = logits(work, data, parent)
    form_logits, _ = logits(work, data, int8_forms.variants[SETTING_NAMES.index(setting)])
    # Agreement with a poor parent would prove little.
    assert (parent_logits.argmax(1) == labels).mean() > MIN_ACCURACY
    assert (parent_logits.argmax(1) == form_logits.argmax(1)).mean() >= 0.97
    # Logits that equal those of fp32 would show that nothing was quantized.
    assert 1e-6 < abs(parent_logits - form_logits).max() / abs(parent_logits).max() < 0.3


def test_rows_hold_the_scores_the_parity_and_the_hash_of_each_stored_file(
    int8_forms: Forms, work: Work, data: Prepared
) -> None:
    table = rows(work, int8_forms)
    for variant in int8_forms.variants:
        form_logits, labels = logits(work, data, variant)
        row = table[variant.name]
        # Dynamic int8 takes the range of a whole batch, so the other images of a batch may change a prediction.
        slack = 0.02 if variant.setting in DYNAMIC else 1e-9
        assert row["validation_top1"] == pytest.approx((form_logits.argmax(1) == labels).mean(), abs=slack)
        assert 0 < row["validation_macro_f1"] <= 1 and 0 < row["parity"] < 0.3 and row["search_latency_ms"] > 0
        assert variant.artifact is not None and row["sha256"] == variant.artifact.sha256


def test_rows_have_every_column_that_must_not_be_null(int8_forms: Forms, work: Work) -> None:
    frame = frames.frame("variants", rows(work, int8_forms).values())
    for name, column in TABLES["variants"].columns.items():
        assert column.nullable or not frame[name].has_nulls(), name


def test_static_forms_have_8_bit_weights_and_less_than_half_the_size_of_fp32(
    int8_forms: Forms, work: Work, parent: Variant
) -> None:
    assert parent.artifact is not None
    for variant in int8_forms.variants[: len(STATIC)]:
        assert variant.artifact is not None
        assert variant.artifact.size_bytes < 0.5 * parent.artifact.size_bytes
        graph = onnx.load(work.store.get(variant.artifact)).graph
        kinds = {t.data_type for t in graph.initializer if t.name.endswith("_quantized") and len(t.dims) == 4}
        assert kinds == {onnx.TensorProto.INT8}
        produced = {name: node for node in graph.node for name in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 36
        # Activations and weights both come out of a quantize-dequantize pair.
        for node in convolutions:
            assert {produced[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}


def test_the_symmetric_form_has_neither_zero_points_nor_a_quantized_bias(int8_forms: Forms, work: Work) -> None:
    artifact = int8_forms.variants[SETTING_NAMES.index("s8s8")].artifact
    assert artifact is not None
    for tensor in onnx.load(work.store.get(artifact)).graph.initializer:
        if tensor.name.endswith("zero_point"):
            assert tensor.data_type == onnx.TensorProto.INT8 and not onnx.numpy_helper.to_array(tensor).any()
        assert tensor.data_type != onnx.TensorProto.INT32


def test_every_form_keeps_the_metadata_of_the_fp32_file(int8_forms: Forms, work: Work, parent: Variant) -> None:
    def metadata(variant: Variant) -> dict[str, str]:
        assert variant.artifact is not None
        return {entry.key: entry.value for entry in onnx.load(work.store.get(variant.artifact)).metadata_props}

    assert {"classes", "mean", "std"} <= metadata(parent).keys()
    for variant in int8_forms.variants:
        assert metadata(parent).items() <= metadata(variant).items()


def test_one_static_and_one_dynamic_form_are_benchmarked(int8_forms: Forms, work: Work) -> None:
    benchmarked_settings = [v.setting for v in int8_forms.variants if v.benchmark]
    assert len(benchmarked_settings) == 2 and benchmarked_settings[0] in STATIC and benchmarked_settings[1] in DYNAMIC
    table = rows(work, int8_forms)
    assert [row["setting"] for row in table.values() if row["benchmark"]] == benchmarked_settings


def measured_form(setting: str, top1: float, latency_ms: float, divergence: float = 0.0) -> Form:
    """A form of an fp32 parent whose top-1 is 0.9."""
    drop = max(0.90 - top1, 0.0)
    scores = Scores(top1=top1, macro_f1=top1, agreement=1 - drop, divergence=divergence, drop=drop, parity=0.1)
    return Form(
        setting=setting,
        format="onnx",
        dynamic=False,
        path=Path(),
        scores=scores,
        latencies={"onnxruntime": latency_ms},
    )


@pytest.mark.parametrize(
    ("forms", "chosen", "reason"),
    [
        ([("a", 0.90, 1.0), ("b", 0.89, 0.5), ("c", 0.88, 0.1)], "b", "fastest within 0.01"),
        ([("a", 0.90, 1.0), ("b", 0.80, 0.5), ("c", 0.85, 0.6)], "a", "fastest within 0.01"),
        ([("a", 0.80, 0.1), ("b", 0.85, 0.5), ("c", 0.85, 0.6)], "b", "no setting is within 0.01"),
        (
            [("a", 0.895, 1.0), ("b", 0.90, 1.0 + TIE / 2), ("c", 0.91, 1.2)],
            "b",
            "fastest within 0.01 of top-1; of 2 settings equally fast (a, b) the most accurate",
        ),
        ([("a", 0.95, 1.0), ("b", 0.97, 2.0)], "a", "fastest within 0.01"),
        # Top-1 above the parent's is chance: the form that diverges less is the more accurate one.
        ([("a", 0.92, 1.0, 0.2), ("b", 0.90, 1.0, 0.1)], "b", "fastest within 0.01 of top-1; of 2 settings"),
    ],
)
def test_the_fastest_setting_that_is_accurate_enough_is_chosen(forms: list[tuple], chosen: str, reason: str) -> None:
    chosen_form, explanation = choose([measured_form(*each) for each in forms], "onnxruntime", 0.01)
    assert (chosen_form.setting, explanation.startswith(reason)) == (chosen, True), explanation


def test_a_sample_has_rows_of_one_split_and_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [100, 300, 600])
    splits = (np.arange(1000) % 5 == 0).astype(np.uint8)
    arrays = Arrays(np.empty((1000, 0)), labels, splits)
    rows = sample(arrays, "train", 80)
    assert len(set(rows)) == 80 and np.isin(rows, arrays.rows_of("train")).all() and (np.diff(rows) > 0).all()
    assert abs(np.bincount(labels[rows]) - [8, 24, 48]).max() <= 1
    assert len(sample(arrays, "validation", 10_000)) == 200


def test_calibration_reads_training_images_alone(
    work: Work, data: Prepared, parent: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime import quantization

    batches: list[np.ndarray] = []

    def read_and_fail(source: Path, path: Path, reader: onnxruntime_static.Reader, **arguments: Any) -> None:
        assert arguments.pop("extra_options")["CalibStridedMinMax"] == 1
        while batch := reader.get_next():
            batches.append(batch["input"])
        raise RuntimeError("seen enough")

    monkeypatch.setattr(quantization, "quantize_static", read_and_fail)
    quantize(work, data, parent, Quantize(settings=("u8s8",), dynamic=False, calibration_images=70), RUNTIMES)
    arrays = load_arrays(work.store, data)
    training = {image.tobytes() for image in normalise(arrays.images[arrays.rows_of("train")], data.mean, data.std)}
    assert sum(map(len, batches)) == 70 and max(map(len, batches)) <= onnxruntime_static.BATCH
    assert all(image.tobytes() in training for batch in batches for image in batch)


def test_percentile_calibration_holds_the_activations_of_one_batch_at_a_time(
    work: Work, data: Prepared, parent: Variant
) -> None:
    from onnxruntime.quantization import calibrate

    arrays = load_arrays(work.store, data)
    assert parent.artifact is not None
    images = Rows(data, arrays.images, sample(arrays, "train", 96))
    batch_counts: list[int] = []
    collect = calibrate.HistogramCollector.collect
    with pytest.MonkeyPatch.context() as patch, work.store.temporary() as folder:

        def count_and_collect(self: Any, outputs: dict[str, list]) -> Any:
            batch_counts.append(max(len(batch) for batch in outputs.values()))
            return collect(self, outputs)

        patch.setattr(calibrate.HistogramCollector, "collect", count_and_collect)
        onnxruntime_static.quantize("u8s8-percentile", work.store.get(parent.artifact), folder, images)
    assert batch_counts == [1, 1, 1]


def test_a_setting_that_fails_is_a_failed_variant_and_the_next_one_is_made(
    work: Work, data: Prepared, parent: Variant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    static_arguments = onnxruntime_static.arguments

    def fail_for_u8s8(setting: str) -> dict[str, Any]:
        if setting == "u8s8":
            raise NotImplementedError("no such\nkernel")
        return static_arguments(setting)

    monkeypatch.setattr(onnxruntime_static, "arguments", fail_for_u8s8)
    with caplog.at_level(logging.INFO, "burnish"):
        forms = quantize(
            work, data, parent, Quantize(settings=("u8s8", "s8s8"), dynamic=False, calibration_images=32), RUNTIMES
        )
    failed, good = forms.variants
    assert (failed.status, failed.error, failed.artifact) == ("failed", "NotImplementedError: no such kernel", None)
    assert not failed.benchmark and (good.status, good.benchmark) == ("ok", True)
    assert rows(work, forms)[failed.name]["error"] == failed.error
    assert "int8 setting s8s8 chosen" in caplog.text and "int8-u8s8: NotImplementedError" in caplog.text


def test_a_graph_without_anything_to_quantize_gives_failed_variants_with_the_reason(
    work: Work, data: Prepared, tmp_path: Path
) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[n, 1, 8, 8] input) => (float[n, 10] logits) {'
        " flat = Flatten (input) start = Constant <value_ints = [0]> () end = Constant <value_ints = [10]> ()"
        " axis = Constant <value_ints = [1]> () logits = Slice (flat, start, end, axis) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with work.store.temporary() as folder:
        (folder / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
        artifact = work.store.put(folder / "m.onnx", "onnx", "fp32")
    plain = Variant(name="plain/onnx", model="plain", stage="export", format="onnx", artifact=artifact)
    forms = quantize(work, data, plain, Quantize(settings=(), calibration_images=32), RUNTIMES)
    assert [v.error for v in forms.variants] == [
        "ValueError: nothing was quantized: the graph has no operator that the setting quantizes"
    ] * 2


def test_a_batch_norm_that_is_not_folded_into_a_convolution_keeps_its_float_weights(
    work: Work, data: Prepared, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DenseNet has a norm before an activation. ONNX Runtime would quantize its weights, with a warning for each.
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[n, 1, 8, 8] input) => (float[n, 10] logits) {'
        " a = Relu (input) b = Conv <pads = [0, 0, 0, 0]> (a, first) c = Relu (b)"
        " d = BatchNormalization (c, scale, shift, mean, variance) e = Relu (d) f = Conv (e, second)"
        " logits = Flatten (f) }"
    )
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    shapes = {"first": (4, 1, 8, 8), "second": (10, 4, 1, 1)} | dict.fromkeys(
        ("scale", "shift", "mean", "variance"), (4,)
    )
    for name, shape in shapes.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(generator.random(shape, np.float32), name))
    with work.store.temporary() as folder:
        onnx.save(model, folder / "m.onnx")
        artifact = work.store.put(folder / "m.onnx", "onnx", "fp32")
    plain = Variant(name="plain/onnx", model="plain", stage="export", format="onnx", artifact=artifact)
    settings = Quantize(settings=("u8s8-reduced",), dynamic=False, calibration_images=32)
    # Otherwise the stage would hide the warnings that this test looks for.
    monkeypatch.setattr(_onnxruntime, "quiet", nullcontext)
    forms = quantize(work, data, plain, settings, RUNTIMES)
    assert forms.variants[0].artifact is not None, forms.variants[0].error
    graph = onnx.load(work.store.get(forms.variants[0].artifact)).graph
    (norm,) = (node for node in graph.node if node.op_type == "BatchNormalization")
    assert set(norm.input[1:]) <= {tensor.name for tensor in graph.initializer}, (
        "the norm's weights must not come out of a DequantizeLinear"
    )
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) >= 4, "the convolutions must be quantized"
    assert WARNING_TEXT not in caplog.text
    arguments = onnxruntime_static.arguments("u8s8-reduced")
    arguments_with_norms = arguments | {
        "op_types_to_quantize": [*arguments["op_types_to_quantize"], "BatchNormalization"]
    }
    monkeypatch.setattr(onnxruntime_static, "arguments", lambda setting: arguments_with_norms)
    quantize(work, data, plain, settings, RUNTIMES)
    assert WARNING_TEXT in caplog.text, "with BatchNormalization among the quantized operators, ONNX Runtime must warn"
