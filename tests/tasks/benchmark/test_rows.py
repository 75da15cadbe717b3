"""The rows of a benchmark follow from its samples, and say where, how and under which conditions they were taken."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from tasks import machine
from tasks.benchmark import _ancestor, benchmark, benchmark_task
from tasks.caching.work import Work
from tasks.candidates.candidate import Visit, conditions
from tasks.measure.intervals import queries_needed, turns
from tasks.records import Prepared, Variant
from tasks.tables import frames
from tests.support.benchmarks import read_table, settings

if TYPE_CHECKING:
    from collections.abc import Callable


def test_variants_and_devices_that_cannot_run_are_rows_that_say_why(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    build_fields = {"model": "lenet5", "stage": "build", "format": "fake"}
    variants = (
        fake_variant("good"),
        fake_variant("not benchmarked", benchmark=False),
        fake_variant("left out").model_copy(update={"left_out_of": ("fake",)}),
        fake_variant("left out elsewhere").model_copy(update={"left_out_of": ("openvino",)}),
        Variant(name="broken", status="failed", error="exporter said no", **build_fields),
        Variant(name="absent", status="skipped", error="no library", **build_fields),
    )
    rows = read_table(
        work, benchmark(work, data, variants, settings(devices=("cpu", "cuda:7"), rounds=1)), "benchmarks"
    )
    outcomes = {(row["variant"], row["device"]): (row["status"], row["error"]) for row in rows.iter_rows(named=True)}
    assert outcomes == {
        ("good", "cpu"): ("ok", None),
        ("good", "cuda:7"): ("skipped", "cuda:7: not here"),
        ("left out elsewhere", "cpu"): ("ok", None),
        ("left out elsewhere", "cuda:7"): ("skipped", "cuda:7: not here"),
        ("broken", "cpu"): ("failed", "exporter said no"),
        ("absent", "cpu"): ("skipped", "no library"),
    }
    assert len(rows) == 2 * len(outcomes)


def test_every_latency_sample_is_kept_and_the_rows_follow_from_the_samples(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake_variant("a"), fake_variant("b", ms=1)), settings())
    samples = read_table(work, measured, "latencies")
    rows = read_table(work, measured, "benchmarks")
    candidate_key = ["variant", "runtime", "device", "batch_size"]
    assert samples.schema == frames.frame("latencies", []).schema
    assert not samples.select(*candidate_key, "round", "query").is_duplicated().any()
    assert samples.select(candidate_key).unique().height == len(rows) == 4
    for row in rows.iter_rows(named=True):
        candidate_samples = samples.filter(pl.all_horizontal(pl.col(column) == row[column] for column in candidate_key))
        assert len(candidate_samples) == row["queries"] >= 2 * 64
        assert candidate_samples["latency_ms"].mean() == pytest.approx(row["latency_mean_ms"])
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["latency_mean_ms"])
        assert candidate_samples.n_unique("round") == row["rounds"] == len(row["round_turns"])
        for (_, round_samples), medians in zip(
            candidate_samples.group_by("round", maintain_order=True), turns(row), strict=True
        ):
            assert min(medians) <= round_samples["latency_ms"].quantile(0.5, "lower") <= max(medians)
        assert (row["latency_p99_ms"] is None) == (len(candidate_samples) < queries_needed(99))
        assert row["latency_median_ms"] in candidate_samples["latency_ms"].to_list()


def test_ram_usage_is_what_the_model_adds_to_the_memory_of_its_library(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake_variant("small"), fake_variant("large", megabytes=200)), settings(rounds=1))
    rows = read_table(work, measured, "memory")
    assert rows["vram_peak_bytes"].to_list() == [None] * 4
    for row in rows.iter_rows(named=True):
        assert row["ram_usage_bytes"] == row["rss_peak_bytes"] - row["rss_baseline_bytes"]
        expected = 200 * 2**20 if row["variant"] == "large" else 0
        assert expected <= row["ram_usage_bytes"] < expected + 30 * 2**20


def test_agreement_compares_a_form_with_its_nearest_measured_ancestor(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    variants = (
        fake_variant("weights"),
        fake_variant("weights/onnx", parent="weights", benchmark=False),
        fake_variant("weights/onnx/int8", parent="weights/onnx", classes=5),
    )
    (work.scratch / "names.json").write_text(
        json.dumps([f"{row}.png" for row in range(len(np.load(work.store.get(data.labels))))])
    )
    named = data.model_copy(update={"names": work.store.put(work.scratch / "names.json", "json")})
    key_of = benchmark_task.about.extra  # type: ignore[attr-defined]
    assert key_of({"data": named}) != key_of({"data": data}), "the key covers the files' names"
    measured = benchmark(work, named, variants, settings(rounds=1))
    rows = {row["variant"]: row for row in read_table(work, measured, "evaluations").iter_rows(named=True)}
    predictions = read_table(work, measured, "predictions")
    assert predictions["file"].to_list() == [f"{row}.png" for row in predictions["image"]]
    parent_predictions, int8_predictions = (
        predictions.filter(pl.col("variant") == name).sort("image")["prediction"] for name in rows
    )
    assert rows["weights"]["parent"] is rows["weights"]["agreement"] is None
    assert rows["weights/onnx/int8"]["parent"] == "weights"
    assert rows["weights/onnx/int8"]["agreement"] == pytest.approx((parent_predictions == int8_predictions).mean())
    assert 0 < (parent_predictions == int8_predictions).mean() < 1
    assert rows["weights"]["logit_difference"] is None and rows["weights/onnx/int8"]["logit_difference"] > 0


def test_an_original_in_a_second_runtime_is_compared_with_itself_in_the_first() -> None:
    def candidate(name: str, runtime: str, device: str = "cpu") -> Any:
        return SimpleNamespace(variant=SimpleNamespace(name=name), runtime=runtime, device=device)

    given = candidate("net/given", "onnxruntime")
    on_gpu = candidate("net/given", "onnxruntime", "cuda:0")
    second = candidate("net/given", "openvino")
    int8 = candidate("net/given/int8", "openvino")
    evaluated = [given, on_gpu, second, int8]
    parents = {"net/given/int8": "net/given", "net/given": None}
    assert [_ancestor(one, evaluated, parents) for one in evaluated] == [None, given, given, second]


def test_conditions_say_what_disturbed_a_measurement_and_are_null_when_calm() -> None:
    def conditions_of(
        medians: list[float], stable: bool = True, foreign: float = 0.02, gpu: str | None = None
    ) -> str | None:
        visit_facts = {"stable": stable, "certificate": {"foreign_cpu": foreign, "gpu_trouble": gpu}}
        return conditions(
            [Visit(np.array([median]), np.array([1]), None, 1, visit_facts) for median in medians], medians
        )

    assert conditions_of([100, 110, 105], foreign=0.2) is None
    assert conditions_of([100, 230, 105]) == "rounds differ by 130%"
    assert conditions_of([100, 100], foreign=0.5) == "other processes used 50% of the cores"
    assert conditions_of([100, 100, 100], stable=False) == "warm-up windows did not agree in 3 of 3 rounds"
    assert conditions_of([100], gpu="thermal slowdown") == "thermal slowdown"


@pytest.mark.alone
def test_conditions_say_how_much_of_the_cores_other_processes_used(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    busy_processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in machine.affinity()]
    try:
        rows = read_table(
            work, benchmark(work, data, (fake_variant("a", ms=5),), settings(batch_sizes=(1,))), "benchmarks"
        )
    finally:
        for process in busy_processes:
            process.kill()
            process.wait()
    assert "other processes used" in rows["conditions"][0]


@pytest.mark.alone
def test_throughput_is_measured_separately_with_one_query_in_flight_per_slot(
    work: Work, data: Prepared, fake_variant: Callable[..., Variant]
) -> None:
    benchmark_settings = settings(throughput=True, threads=2, batch_sizes=(1, 4))
    measured = benchmark(
        work, data, (fake_variant("a", ms=4), fake_variant("broken", fault="raise")), benchmark_settings
    )
    rows = read_table(work, measured, "throughputs")
    samples = read_table(work, measured, "completions")
    assert dict(rows.select("variant", "status").iter_rows()) == {"a": "ok", "broken": "failed"}
    latency_rows = read_table(work, measured, "benchmarks").filter(pl.col("variant") == "a")
    for row, latency_row in zip(rows.head(2).iter_rows(named=True), latency_rows.iter_rows(named=True), strict=True):
        assert row["slots"] == 2
        assert row["images_per_second"] == pytest.approx(2 * latency_row["images_per_second"], rel=0.15)
        assert row["images_per_second"] == pytest.approx(np.mean(row["round_images_per_second"]))
        candidate_samples = samples.filter((pl.col("variant") == "a") & (pl.col("batch_size") == row["batch_size"]))
        assert len(candidate_samples) == row["queries"] >= 2 * 64


def test_every_visit_has_a_certificate(work: Work, data: Prepared, fake_variant: Callable[..., Variant]) -> None:
    measured = benchmark(work, data, (fake_variant("a"),), settings(throughput=True))
    rows = read_table(work, measured, "certificates")
    assert rows.select("batch_size", "experiment", "round").rows() == [
        (size, experiment, number) for experiment in ("latency", "throughput") for size in (1, 4) for number in (1, 2)
    ]
    for row in rows.iter_rows(named=True):
        assert row["provider"] == "FakeProvider"
        assert row["cpu_model"] and row["affinity"]
        assert json.loads(row["libraries"])["numpy"] == np.__version__
        assert (row["energy_j"] is None) == (row["energy_note"] is not None)
