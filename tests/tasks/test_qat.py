"""Quantization-aware training on real digits: its variants, their accuracy, and how ONNX Runtime executes them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import polars
import pytest
import torch
from pydantic import ValidationError

from tasks import qat as stage
from tasks.build import build
from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.export import export
from tasks.forms import fakequant
from tasks.forms.onnx import SCOPES
from tasks.qat import qat
from tasks.records import QAT_SETTINGS, Build, Export, Model, Qat, Study, Train
from tasks.runtimes import _tensorrt
from tasks.runtimes import onnxruntime as runtime
from tasks.tables import frames
from tasks.tables.schema import TABLES
from tasks.train import train
from tasks.training.loop import TrainingLoop
from tests.support.digits import digits
from tests.support.optimized import optimized_operators

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Forms, Prepared, Trained, Variant


MODEL = Model(name="lenet5")


SETTINGS = Qat(epochs=2, settings=QAT_SETTINGS, learning_rate=0.01)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("qat"), "qat")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work, rows=1500)


@pytest.fixture(scope="module")
def trained(work: Work, data: Prepared) -> Trained:
    """LeNet-5, trained for as many epochs as this CPU's arithmetic needs to know the digits."""
    for epochs in (12, 24, 48):
        training = train(work, MODEL, data, Train(epochs=epochs, batch_size=48, learning_rate=0.07), True)
        if training.validation_macro_f1 > 0.95:
            break
    return training


@pytest.fixture(scope="module")
def fp32(work: Work, data: Prepared, trained: Trained) -> Variant:
    return export(work, data, trained.variant, Export(formats=("onnx",))).variants[0]


@pytest.fixture(scope="module")
def qat_forms(work: Work, data: Prepared, trained: Trained, fp32: Variant) -> Forms:
    return qat(work, MODEL, data, trained, fp32, Export(), SETTINGS)


@pytest.fixture(params=QAT_SETTINGS)
def form(request: pytest.FixtureRequest, qat_forms: Forms) -> Variant:
    return next(v for v in qat_forms.variants if v.setting == f"qat-{request.param}")


def fresh_work(work: Work) -> Work:
    """Return the surroundings of another run of the stage, with the same store."""
    return Work.at(work.store.root.parent, "again")


def rows(work: Work, forms: Forms, table: str = "variants") -> list[dict[str, Any]]:
    return polars.read_parquet(work.store.get(forms.tables[table])).to_dicts()


def graph(work: Work, variant: Variant) -> onnx.GraphProto:
    assert variant.artifact is not None, variant.error
    return onnx.load(work.store.get(variant.artifact)).graph


def top1(work: Work, data: Prepared, variant: Variant) -> float:
    """Return the share of the test images that a form classifies rightly."""
    assert variant.artifact is not None
    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("test")
    session = runtime.open(work.store.get(variant.artifact), "cpu", 100, 1)
    logits = session.run(normalise(arrays.images[rows], data.mean, data.std))
    return float((logits.argmax(1) == arrays.labels[rows]).mean())


def test_each_setting_gives_a_variant_and_all_but_s8s8_are_benchmarked(qat_forms: Forms, fp32: Variant) -> None:
    assert [v.name for v in qat_forms.variants] == [f"{fp32.name}/int8-qat-{name}" for name in QAT_SETTINGS]
    for v in qat_forms.variants:
        assert (v.status, v.error, v.precision, v.stage) == ("ok", None, "int8", "qat")
        # The form s8s8 is for TensorRT, which builds an engine from it.
        assert v.benchmark == (v.setting != "qat-s8s8")
        assert (v.parent, v.parameters, v.macs) == (fp32.name, fp32.parameters, fp32.macs)


def test_every_form_is_at_most_one_point_less_accurate_than_fp32(
    form: Variant, fp32: Variant, work: Work, data: Prepared
) -> None:
    reference = top1(work, data, fp32)
    assert reference > 0.9
    assert top1(work, data, form) >= reference - 0.01


def test_activations_and_weights_of_every_layer_are_dequantized_from_integers(form: Variant, work: Work) -> None:
    onnx_graph = graph(work, form)
    produced = {name: node for node in onnx_graph.node for name in node.output}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx_graph.initializer}
    layers = [node for node in onnx_graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(layers) == 5
    unsigned = form.setting != "qat-s8s8"
    limit = 64 if form.setting == "qat-u8s8-reduced" else 127
    for node in layers:
        activation, weight = (produced[name] for name in node.input[:2])
        # These operators only move values, so the quantization before them is the layer's.
        while activation.op_type in ("Reshape", "MaxPool"):
            activation = produced[activation.input[0]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert produced[activation.input[0]].op_type == "QuantizeLinear"
        assert weights[activation.input[2]].dtype == (np.uint8 if unsigned else np.int8)
        assert unsigned or weights[activation.input[2]] == 0
        integers = weights[weight.input[0]]
        # There is one scale per output channel.
        assert integers.dtype == np.int8 and len(weights[weight.input[1]]) == len(integers)
        assert abs(integers.astype(int)).max() == limit
        assert not weights[weight.input[2]].any()


def test_onnx_runtime_executes_every_layer_in_integers(qat_forms: Forms, work: Work, tmp_path: Path) -> None:
    for form in qat_forms.variants:
        if form.benchmark:
            assert form.artifact is not None
            kinds = optimized_operators(work.store.get(form.artifact), tmp_path)
            assert not {"Conv", "Gemm", "MatMul", "FusedConv"} & set(kinds), kinds
            assert kinds.count("QLinearConv") == 2 and kinds.count("QGemm") == 3


@pytest.mark.skipif(find_spec(_tensorrt.RTX) is None, reason="TensorRT for RTX is not installed")
def test_tensorrt_builds_an_engine_of_the_symmetric_form(qat_forms: Forms, work: Work) -> None:
    symmetric = next(v for v in qat_forms.variants if v.setting == "qat-s8s8")
    (engine,) = build(work, symmetric, symmetric, Build(precisions=("int8",))).variants
    assert (engine.status, engine.error, engine.precision) == ("ok", None, "int8")
    assert (engine.name, engine.parent) == (f"{symmetric.name}/engine-int8", symmetric.name)


def test_rows_hold_the_score_the_parity_and_the_hash_of_each_stored_file(
    qat_forms: Forms, work: Work, data: Prepared
) -> None:
    arrays = load_arrays(work.store, data)
    validation = arrays.rows_of("validation")
    for variant, row in zip(qat_forms.variants, rows(work, qat_forms), strict=True):
        assert variant.artifact is not None
        logits = runtime.open(work.store.get(variant.artifact), "cpu", 100, 1).run(
            normalise(arrays.images[validation], data.mean, data.std)
        )
        assert row["validation_top1"] == pytest.approx((logits.argmax(1) == arrays.labels[validation]).mean())
        assert row["parity"] <= row["tolerance"] == SETTINGS.tolerance
        assert row["sha256"] == variant.artifact.sha256
    frame = frames.frame("variants", rows(work, qat_forms))
    for name, column in TABLES["variants"].columns.items():
        assert column.nullable or not frame[name].has_nulls(), name


def test_the_table_of_epochs_has_every_epoch_of_every_variant(qat_forms: Forms, work: Work) -> None:
    epochs = rows(work, qat_forms, "epochs")
    assert {row["variant"] for row in epochs} == {v.name for v in qat_forms.variants}
    assert {row["stage"] for row in epochs} == {"qat"} and {row["epoch"] for row in epochs} == {1, 2}


def test_a_form_keeps_the_metadata_of_the_fp32_file_and_has_no_stack_traces(
    form: Variant, fp32: Variant, work: Work
) -> None:
    def metadata(variant: Variant) -> dict[str, str]:
        assert variant.artifact is not None
        return {entry.key: entry.value for entry in onnx.load(work.store.get(variant.artifact)).metadata_props}

    assert {"classes", "mean", "std"} <= metadata(fp32).keys()
    assert metadata(fp32).items() <= metadata(form).items()
    node_metadata = {entry.key for node in graph(work, form).node for entry in node.metadata_props}
    assert node_metadata <= {SCOPES}, "the file must hold no stack traces, which contain paths of this machine"


def test_a_training_that_was_cut_off_resumes_to_the_file_of_an_uninterrupted_one(
    work: Work, data: Prepared, trained: Trained, fp32: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"settings": ("u8s8-reduced",)})
    (uninterrupted,) = qat(fresh_work(work), MODEL, data, trained, fp32, Export(), settings).variants
    validate, interrupted_work = TrainingLoop._validate, fresh_work(work)

    def interrupt_after_epoch(self: TrainingLoop, scores: Any) -> float:
        validate(self, scores)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoop, "_validate", interrupt_after_epoch)
        qat(interrupted_work, MODEL, data, trained, fp32, Export(), settings)
    resumed = qat(interrupted_work, MODEL, data, trained, fp32, Export(), settings)
    assert resumed.variants[0].artifact == uninterrupted.artifact is not None
    assert [row["epoch"] for row in rows(work, resumed, "epochs")] == [1, 1, 2, 2]


def test_the_warm_up_before_the_first_epoch_does_not_change_the_observers(
    work: Work, data: Prepared, trained: Trained, fp32: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, go = Qat(epochs=1, settings=("u8s8-reduced",), learning_rate=0.01), TrainingLoop.go
    (without_warm_up,) = qat(fresh_work(work), MODEL, data, trained, fp32, Export(), settings).variants

    def warm_up_and_go(self: TrainingLoop, on_epoch: Any = None) -> None:
        # Trainings on a GPU begin with this step.
        self._warm_up()
        go(self, on_epoch)

    monkeypatch.setattr(TrainingLoop, "go", warm_up_and_go)
    (with_warm_up,) = qat(fresh_work(work), MODEL, data, trained, fp32, Export(), settings).variants
    assert with_warm_up.artifact == without_warm_up.artifact is not None, with_warm_up.error


def test_test_images_are_never_read_by_qat(
    work: Work, data: Prepared, trained: Trained, fp32: Variant, qat_forms: Forms
) -> None:
    arrays = load_arrays(work.store, data)
    spoilt = np.array(arrays.images)
    spoilt[arrays.rows_of("test")] = 255 - spoilt[arrays.rows_of("test")]
    with work.store.temporary() as folder:
        np.save(folder / "images.npy", spoilt)
        spoilt_data = data.model_copy(update={"images": work.store.put(folder / "images.npy", "npy")})
    settings = SETTINGS.model_copy(update={"settings": ("u8s8",)})
    original_form, form_of_spoilt_data = (
        qat(fresh_work(work), MODEL, prepared, trained, fp32, Export(), settings).variants[0]
        for prepared in (data, spoilt_data)
    )
    assert original_form.artifact == form_of_spoilt_data.artifact is not None


def test_a_setting_that_fails_is_a_failed_variant_and_the_next_one_is_made(
    work: Work, data: Prepared, trained: Trained, fp32: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_u8s8(model: Any, example: Any, setting: str) -> Any:
        if setting == "u8s8":
            raise NotImplementedError("no such\noperator")
        return fakequant.fake_quantized(model, example, setting)

    monkeypatch.setattr(stage, "fake_quantized", fail_for_u8s8)
    settings = Qat(epochs=1, settings=("u8s8", "u8s8-reduced"), learning_rate=0.01)
    failed, good = qat(fresh_work(work), MODEL, data, trained, fp32, Export(), settings).variants
    assert (failed.status, failed.error, failed.benchmark) == ("failed", "NotImplementedError: no such operator", False)
    assert (good.status, good.benchmark) == ("ok", True)


def test_a_form_whose_parity_exceeds_the_tolerance_is_a_failed_variant(
    work: Work, data: Prepared, trained: Trained, fp32: Variant
) -> None:
    settings = Qat(epochs=1, learning_rate=0.01, tolerance=1e-9)
    forms = qat(fresh_work(work), MODEL, data, trained, fp32, Export(), settings)
    assert forms.variants[0].status == "failed" and "qat.tolerance is 1e-09" in str(forms.variants[0].error)
    assert rows(work, forms)[0]["parity"] is None


def test_weights_trained_with_any_settings_can_be_trained_quantization_aware(
    work: Work, data: Prepared, trained: Trained, fp32: Variant
) -> None:
    settings = Train(
        epochs=0,
        optimizer="muon",
        ema=0.9,
        precision="bf16",
        checkpointing=True,
        processes=2,
        batch_size="auto",
        accumulate=2,
        seeds=(3, 4),
        label_smoothing=0.1,
    )
    other = trained.model_copy(update={"train": settings})
    (form,) = qat(fresh_work(work), MODEL, data, other, fp32, Export(), Qat(epochs=1)).variants
    assert form.status == "ok", form.error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qat": {"settings": ["int4"]}}, "accepted: u8s8, u8s8-reduced, s8s8"),
        ({"qat": {"settings": []}}, "at least 1 item"),
        ({"qat": {"epochs": -1}}, "greater than or equal to 0"),
        (
            {
                "qat": {"epochs": 1},
                "export": {"formats": ["torchscript"]},
                "build": {"precisions": []},
                "quantize": {"settings": [], "dynamic": False},
                "benchmark": {"runtimes": ["eager", "torchscript"]},
            },
            "qat: int8 is written as ONNX",
        ),
        (
            {
                "qat": {"epochs": 1},
                "data": {"test_fraction": 1, "mean": [0.5], "std": [0.5]},
                "models": [{"name": "resnet34", "pretrained": "hub"}],
                "train": {"epochs": 0},
                "tune": {"trials": 0},
                "augment": {"policies": []},
                "prune": {"ratios": []},
            },
            "qat.epochs = 0",
        ),
    ],
)
def test_qat_settings_that_are_invalid_or_contradict_others_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Study.model_validate(settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_gives_a_form_within_the_tolerance(
    work: Work, data: Prepared, trained: Trained, fp32: Variant
) -> None:
    other = trained.model_copy(update={"train": trained.train.model_copy(update={"device": "cuda:0"})})
    forms = qat(fresh_work(work), MODEL, data, other, fp32, Export(), Qat(epochs=1, learning_rate=0.01))
    assert forms.variants[0].status == "ok", forms.variants[0].error
    assert {row["device"] for row in rows(work, forms, "epochs")} == {"cuda:0"}
