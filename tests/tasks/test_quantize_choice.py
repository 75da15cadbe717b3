"""The choice of int8 forms, runtime by runtime: what is timed, what goes on, and what the tables say of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import polars
import pytest

import tasks.quantize
from tasks import runtimes
from tasks.caching.work import Work
from tasks.export import export
from tasks.forms.choice import Timed, time_in, timed_runtimes
from tasks.forms.int8 import score
from tasks.quantize import quantize, quantize_task
from tasks.quantizers import _activations, _equalise, nncf_openvino
from tasks.records import Export, Forms, Prepared, Quantize, Variant
from tests.support.digits import digits, stored_model

if TYPE_CHECKING:
    from pathlib import Path

RUNTIMES = ("eager", "onnxruntime", "openvino")
SETTINGS = ("u8s8-reduced", "u8s8")
QUANTIZE = Quantize(settings=SETTINGS, dynamic=False, calibration_images=32, max_drop=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("choice"), "quantize")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work)


@pytest.fixture(scope="module")
def parent(work: Work, data: Prepared) -> Variant:
    weights = stored_model(work, "l", name="lenet5", num_classes=10, in_channels=1, image_size=8)
    return export(work, data, weights, Export(formats=("onnx",))).variants[0]


def rows(work: Work, forms: Forms) -> dict[str, dict]:
    frame = polars.read_parquet(work.store.get(forms.tables["variants"]))
    return {row["setting"]: row for row in frame.to_dicts()}


def test_the_fastest_form_of_each_runtime_is_benchmarked_in_that_runtime_alone(
    work: Work, data: Prepared, parent: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    latencies = {"onnxruntime": {"u8s8-reduced": 2.0, "u8s8": 1.0}, "openvino": {"u8s8-reduced": 1.5, "u8s8": 3.0}}

    def pretend(name: str, fp32: Path, forms: dict[str, Path], image: np.ndarray) -> Timed:
        return Timed(2.0, {setting: latencies[name][setting] / 2 for setting in forms}, {})

    monkeypatch.setattr(tasks.quantize, "time_in", pretend)
    forms = quantize(work, data, parent, QUANTIZE, RUNTIMES)
    reduced, full = forms.variants
    assert (reduced.benchmark, reduced.left_out_of) == (True, ("onnxruntime",))
    assert (full.benchmark, full.left_out_of) == (True, ("openvino",))
    table = rows(work, forms)
    assert {setting: row["chosen_in"] for setting, row in table.items()} == {
        "u8s8-reduced": "openvino",
        "u8s8": "onnxruntime",
    }
    assert json.loads(table["u8s8"]["search_latencies"]) == {"onnxruntime": 1.0, "openvino": 3.0}
    assert table["u8s8-reduced"]["search_latency_ms"] == 1.5
    for row in table.values():
        assert 0.8 < row["validation_agreement"] <= 1 and row["validation_divergence"] > 0
        assert 0 <= row["validation_drop"] <= 1


def test_where_only_faster_forms_go_on_one_that_is_slower_than_fp32_is_not_measured_there(
    work: Work, data: Prepared, parent: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = {"onnxruntime": {"u8s8-reduced": 1.4, "u8s8": 1.0}, "openvino": {"u8s8-reduced": 0.9, "u8s8": 1.1}}

    def pretend(name: str, fp32: Path, forms: dict[str, Path], image: np.ndarray) -> Timed:
        return Timed(2.0, {setting: ratios[name][setting] for setting in forms}, {})

    monkeypatch.setattr(tasks.quantize, "time_in", pretend)
    forms = quantize(work, data, parent, QUANTIZE.model_copy(update={"only_faster": True}), RUNTIMES)
    reduced, full = forms.variants
    assert (reduced.benchmark, reduced.left_out_of) == (True, ("onnxruntime",))
    assert not full.benchmark
    assert forms.fp32_latencies == {"onnxruntime": 2.0, "openvino": 2.0}
    assert [scored.latencies for scored in forms.scored] == [
        {"onnxruntime": 2.8, "openvino": 1.8},
        {"onnxruntime": 2.0, "openvino": 2.2},
    ]


def test_each_form_is_timed_in_each_runtime_that_executes_it(work: Work, data: Prepared, parent: Variant) -> None:
    forms = quantize(work, data, parent, QUANTIZE, RUNTIMES)
    for row in rows(work, forms).values():
        measured = json.loads(row["search_latencies"])
        assert set(measured) == {"onnxruntime", "openvino"} and min(measured.values()) > 0
        assert row["search_latency_ms"] == min(measured.values())
    chosen = {name for row in rows(work, forms).values() for name in (row["chosen_in"] or "").split(", ") if name}
    assert chosen == {"onnxruntime", "openvino"}


def test_a_setting_whose_library_is_missing_is_a_skipped_variant(
    work: Work, data: Prepared, parent: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nncf_openvino, "unavailable", lambda: "NNCF is not installed")
    settings = Quantize(settings=("nncf-openvino-mixed",), dynamic=False, calibration_images=32)
    (variant,) = quantize(work, data, parent, settings, RUNTIMES).variants
    assert (variant.status, variant.error, variant.format) == ("skipped", "NNCF is not installed", "openvino")
    assert not variant.benchmark


def test_a_setting_that_would_change_nothing_in_the_graph_is_a_skipped_variant(
    work: Work, data: Prepared, parent: Variant
) -> None:
    settings = Quantize(settings=("u8s8-equalised",), dynamic=False, calibration_images=32)
    (variant,) = quantize(work, data, parent, settings, RUNTIMES).variants
    assert (variant.status, variant.error) == ("skipped", _equalise.NOTHING)
    assert not variant.benchmark


def test_a_runtime_that_does_not_execute_a_form_says_why_and_times_the_others(
    work: Work, data: Prepared, parent: Variant, tmp_path: Path
) -> None:
    assert parent.artifact is not None
    fp32 = work.store.get(parent.artifact)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    forms = {path.stem: path for path in (tmp_path / "damaged.onnx", fp32)}
    timed = time_in("openvino", fp32, forms, np.zeros((1, 1, 8, 8), np.float32))
    assert list(timed.refused) == ["damaged"] and timed.refused["damaged"]
    # The second form is its own parent.
    assert list(timed.ratios) == [fp32.stem] and timed.ratios[fp32.stem] > 0
    assert timed.parent_ms is not None and timed.parent_ms > 0


def test_forms_are_timed_in_the_runtimes_of_the_study_that_execute_them_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert timed_runtimes(("eager", "torchscript", "onnxruntime", "openvino", "tensorrt", "null")) == (
        "onnxruntime",
        "openvino",
    )
    assert timed_runtimes(("eager", "torchscript")) == ("onnxruntime",)
    monkeypatch.setattr(runtimes.load("openvino"), "unavailable", lambda device: "OpenVINO is not installed")
    assert timed_runtimes(RUNTIMES) == ("onnxruntime",)


def test_the_key_counts_the_quantizers_and_the_timed_runtimes(data: Prepared, parent: Variant) -> None:
    def parts(settings: Quantize, names: tuple[str, ...]) -> dict:
        inputs = {"data": data, "parent": parent, "settings": settings, "runtimes": names}
        return quantize_task.about.parts(inputs)  # type: ignore[attr-defined]

    usual = parts(QUANTIZE, RUNTIMES)
    assert "code of tasks.quantizers.onnxruntime_static" in usual and "code of tasks.runtimes.openvino" in usual
    assert "code of tasks.quantizers.nncf_onnx" not in usual
    assert parts(QUANTIZE, (*RUNTIMES, "torchscript")) == usual != parts(QUANTIZE, ("eager", "onnxruntime"))
    with_nncf = parts(Quantize(settings=("nncf-mixed",)), RUNTIMES)
    assert "version of nncf" in with_nncf and "code of tasks.quantizers.nncf_onnx" in with_nncf


def test_a_form_is_not_taken_for_better_than_its_parent() -> None:
    # The parent is wrong about the second image, and nearly sure of the others.
    parent = np.array([[5, 0], [1, 0], [0, 5], [5, 0]], np.float32)
    labels = np.array([0, 1, 1, 0])
    lucky = np.array([[5, 0], [0, 1], [0, 5], [5, 0]], np.float32)
    scores = score(parent, lucky, labels)
    assert (scores.top1, scores.agreement) == (1.0, 0.75)
    # By the parent's probabilities, the class that changed is less probable by 0.73 - 0.27.
    assert scores.drop == pytest.approx(0.4621 / 4, abs=1e-4)
    unlucky = np.array([[5, 0], [1, 0], [0, 5], [-0.1, 0]], np.float32)
    assert score(parent, unlucky, labels).drop == pytest.approx(0.25)


def test_calibration_images_are_read_in_batches_and_each_once() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 70

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.arange(start, stop)

    batches = list(_activations.batches(Numbers(), 32))
    assert [len(batch) for batch in batches] == [32, 32, 6]
    assert np.concatenate(batches).tolist() == list(range(70))
