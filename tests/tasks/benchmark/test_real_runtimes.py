"""A LeNet-5 is benchmarked on real digits in the real runtimes."""

from __future__ import annotations

import json
import os

import polars as pl
import psutil
import pytest
from sklearn.metrics import f1_score

from tasks.benchmark import benchmark
from tasks.caching.work import Work
from tasks.records import Export, Measured, Variant
from tests.support.benchmarks import QUICK, read_table
from tests.support.digits import digits, stored_model


@pytest.fixture(scope="module")
def real_benchmark(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Measured]:
    """The work folder and the benchmark of a LeNet-5, its forms, a damaged ONNX file and a damaged engine."""
    from tasks.export import export

    work = Work.at(tmp_path_factory.mktemp("real"))
    data = digits(work)
    parent = stored_model(work, "lenet5", name="lenet5", num_classes=10, in_channels=1, image_size=8)
    parent = parent.model_copy(update={"benchmark": True})
    forms = export(work, data, parent, Export(images=16)).variants
    with work.store.temporary() as folder:
        (folder / "model.onnx").write_bytes(b"not a model")
        damaged = Variant(
            name="damaged",
            model="lenet5",
            stage="quantize",
            format="onnx",
            precision="int8",
            artifact=work.store.put(folder / "model.onnx", "onnx"),
            benchmark=True,
        )
        (folder / "model.engine").write_bytes(b"not an engine")
        engine = Variant(
            name="engine",
            model="lenet5",
            stage="build",
            format="engine",
            benchmark=True,
            artifact=work.store.put(folder / "model.engine", "engine"),
        )
    cpu_settings = QUICK.model_copy(update={"devices": ("cpu",)})
    return work, benchmark(work, data, (parent, *forms, damaged, engine), cpu_settings)


@pytest.mark.slow
def test_each_form_is_measured_in_every_runtime_that_executes_its_format(real_benchmark: tuple[Work, Measured]) -> None:
    rows = read_table(*real_benchmark, "benchmarks").filter(pl.col("status") == "ok")
    assert set(rows.select("variant", "runtime", "provider").rows()) == {
        ("lenet5/train", "eager", "PyTorch eager (cpu)"),
        ("lenet5/train/onnx", "onnxruntime", "CPUExecutionProvider"),
        ("lenet5/train/onnx", "openvino", "OpenVINO CPU (f32, 1 stream, 1 thread)"),
        ("lenet5/train/torchscript", "torchscript", "TorchScript (cpu)"),
    }
    assert (rows["latency_min_ms"] > 0.001).all()


@pytest.mark.slow
def test_a_damaged_file_fails_and_an_engine_is_skipped_on_the_cpu(real_benchmark: tuple[Work, Measured]) -> None:
    rows = read_table(*real_benchmark, "benchmarks").filter(pl.col("status") != "ok")
    errors = {(row["variant"], row["runtime"], row["status"]): row["error"] for row in rows.iter_rows(named=True)}
    expected = {
        ("damaged", "onnxruntime", "failed"): "Protobuf parsing failed",
        ("damaged", "openvino", "failed"): "OpenVINO does not read it",
        ("engine", "tensorrt", "skipped"): "CUDA",
    }
    assert errors.keys() == expected.keys()
    assert all(reason in errors[row] for row, reason in expected.items())


@pytest.mark.slow
def test_scores_follow_from_the_predictions_and_forms_agree_with_their_parent(
    real_benchmark: tuple[Work, Measured],
) -> None:
    predictions = read_table(*real_benchmark, "predictions")
    for row in read_table(*real_benchmark, "evaluations").iter_rows(named=True):
        row_predictions = predictions.filter(
            (pl.col("variant") == row["variant"]) & (pl.col("runtime") == row["runtime"])
        )
        assert row["images"] == len(row_predictions) == 60
        assert row["top1"] == pytest.approx((row_predictions["label"] == row_predictions["prediction"]).mean())
        assert row["macro_f1"] == pytest.approx(
            f1_score(row_predictions["label"], row_predictions["prediction"], average="macro")
        )
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert row["macro_f1_low"] <= row["macro_f1"] <= row["macro_f1_high"]
        if row["variant"] != "lenet5/train":
            assert (row["parent"], row["agreement"]) == ("lenet5/train", 1.0)
            assert 0 <= row["logit_difference"] < (0.02 if row["runtime"] == "openvino_bf16" else 1e-4)


@pytest.mark.slow
def test_the_environments_table_names_the_machine_and_its_libraries(real_benchmark: tuple[Work, Measured]) -> None:
    (row,) = read_table(*real_benchmark, "environments").to_dicts()
    assert row["cpu_cores"] <= len(os.sched_getaffinity(0))
    assert row["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert {"torch", "numpy"} <= json.loads(row["libraries"]).keys()
