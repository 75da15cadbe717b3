"""The benchmark of a LeNet-5 on real digits in the real runtimes."""

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
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Measured]:
    """LeNet-5 on real digits in the real runtimes, one of the ONNX files damaged."""
    from tasks.export import export

    work = Work.at(tmp_path_factory.mktemp("real"))
    data = digits(work)
    parent = stored_model(work, "lenet5", name="lenet5", num_classes=10, in_channels=1, image_size=8)
    parent = parent.model_copy(update={"benchmark": True})
    forms = export(work, data, parent, Export(images=16)).variants
    with work.store.temporary() as folder:
        (folder / "model.onnx").write_bytes(b"not a model")
        bad = Variant(
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
    chosen = QUICK.model_copy(update={"devices": ("cpu",)})
    return work, benchmark(work, data, (parent, *forms, bad, engine), chosen)


@pytest.mark.slow
def test_real_forms_are_measured_through_the_runtime_that_executes_them(real: tuple[Work, Measured]) -> None:
    rows = read_table(*real, "benchmarks").filter(pl.col("status") == "ok")
    assert set(rows.select("variant", "runtime", "provider").rows()) == {
        ("lenet5/train", "eager", "PyTorch eager (cpu)"),
        ("lenet5/train/onnx", "onnxruntime", "CPUExecutionProvider"),
        ("lenet5/train/onnx", "openvino", "OpenVINO CPU (f32, 1 stream, 1 thread)"),
        ("lenet5/train/torchscript", "torchscript", "TorchScript (cpu)"),
    }
    assert (rows["latency_min_ms"] > 0.001).all()


@pytest.mark.slow
def test_a_damaged_file_fails_and_an_engine_is_skipped_on_the_cpu(real: tuple[Work, Measured]) -> None:
    rows = read_table(*real, "benchmarks").filter(pl.col("status") != "ok")
    told = {(r["variant"], r["runtime"], r["status"]): r["error"] for r in rows.iter_rows(named=True)}
    expected = {
        ("damaged", "onnxruntime", "failed"): "Protobuf parsing failed",
        ("damaged", "openvino", "failed"): "OpenVINO does not read it",
        ("engine", "tensorrt", "skipped"): "CUDA",
    }
    assert told.keys() == expected.keys()
    assert all(words in told[place] for place, words in expected.items())


@pytest.mark.slow
def test_quality_is_that_of_the_predictions_and_forms_agree_with_their_parent(real: tuple[Work, Measured]) -> None:
    said = read_table(*real, "predictions")
    for row in read_table(*real, "evaluations").iter_rows(named=True):
        own = said.filter((pl.col("variant") == row["variant"]) & (pl.col("runtime") == row["runtime"]))
        assert row["images"] == len(own) == 60
        assert row["top1"] == pytest.approx((own["label"] == own["prediction"]).mean())
        assert row["macro_f1"] == pytest.approx(f1_score(own["label"], own["prediction"], average="macro"))
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert row["macro_f1_low"] <= row["macro_f1"] <= row["macro_f1_high"]
        if row["variant"] != "lenet5/train":
            assert (row["parent"], row["agreement"]) == ("lenet5/train", 1.0)


@pytest.mark.slow
def test_the_environment_names_the_machine_and_the_libraries(real: tuple[Work, Measured]) -> None:
    (row,) = read_table(*real, "environments").to_dicts()
    assert row["cpu_cores"] <= len(os.sched_getaffinity(0))
    assert row["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert {"torch", "numpy"} <= json.loads(row["libraries"]).keys()
