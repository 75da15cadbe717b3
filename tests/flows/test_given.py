"""Studies of models that are given as files: which steps they have, what is refused, and what the reference is."""

from __future__ import annotations

import pytest

from flows.plan import planned
from flows.presets import optimize
from flows.settings import Mistake, load
from flows.step import remaining
from flows.steps import steps
from tasks.records import Model, Study
from tasks.tables.rule import find_reference


def test_a_given_model_is_inspected_before_its_images_are_prepared_and_is_never_trained() -> None:
    plan = steps(planned(optimize()).study)
    stages = [step.stage for step in plan if step.stage not in ("rank", "search", "choose", "configure")]
    measuring = ["benchmark", "aggregate"]
    assert stages == ["inspect", "prepare", "adopt", "quantize", *measuring, *measuring]
    assert remaining(plan, {}) == plan


def test_a_given_model_and_a_named_one_share_a_study() -> None:
    study = Study(
        models=(Model(name="lenet5"), Model(file="a.onnx")), skip=("tune", "augment", "prune", "build", "serve")
    )
    plan = steps(planned(study).study)
    assert [(step.stage, step.model) for step in plan if step.model] == [
        ("inspect", "a"),
        ("adopt", "a"),
        ("quantize", "a"),
        ("train", "lenet5"),
        ("export", "lenet5"),
        ("quantize", "lenet5"),
    ]
    # Where the given model cannot be inspected, the study goes on with the other.
    after = remaining(plan, {"inspect a": None})
    assert {step.model for step in after} == {"", "lenet5"}


def test_a_study_of_given_models_alone_needs_no_eager_runtime_and_makes_no_torchscript() -> None:
    settings = ["benchmark.runtimes=['onnxruntime', 'openvino']"]
    assert load("optimize", settings).benchmark.runtimes == ("onnxruntime", "openvino")
    with pytest.raises(Mistake, match="must contain 'onnxruntime', which the reference is measured with"):
        load("optimize", ["benchmark.runtimes=['openvino']"])
    with pytest.raises(Mistake, match="eager executes safetensors; no stage makes it"):
        load("optimize", ["benchmark.runtimes=['onnxruntime', 'eager']"])
    assert {"eager", "torchscript"}.isdisjoint(planned(optimize()).study.benchmark.runtimes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"file": "a.onnx", "width": 8}, "width is for models that burnish makes by name"),
        ({"name": "lenet5", "order": "bgr"}, "order is for a model that is given as a file"),
        ({"name": "resnet"}, "unknown model 'resnet'"),
    ],
)
def test_settings_that_do_not_fit_the_kind_of_model_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model(**model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "name"), [("nets/My Net (2).onnx", "My-Net-2"), ("é.ONNX", "model"), ("a.b.onnx", "a.b")]
)
def test_a_given_model_is_called_by_its_files_name(file: str, name: str) -> None:
    assert Study.model_validate_json(f'{{"models": ["{file}"]}}').models[0].label == name


def test_the_reference_is_the_given_file_in_onnx_runtime() -> None:
    row = {"batch_size": 1, "status": "ok", "precision": "fp32", "device": "cpu", "top1": 0.9, "latency_median_ms": 2.0}
    rows = [
        row | {"variant": "a/given", "stage": "adopt", "runtime": "openvino"},
        row | {"variant": "a/given", "stage": "adopt", "runtime": "onnxruntime"},
        row | {"variant": "a/given/int8", "stage": "quantize", "runtime": "onnxruntime", "precision": "int8"},
    ]
    assert find_reference(rows, optimize(), 1) == rows[1]
