"""The rows of a benchmark follow from its samples, and say where, how and under which conditions they were taken."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from tasks import machine
from tasks.benchmark import benchmark, benchmark_task
from tasks.caching.work import Work
from tasks.candidates.candidate import Visit, conditions
from tasks.measure.intervals import queries_needed, turns
from tasks.records import Prepared, Variant
from tasks.tables import frames
from tests.support.benchmarks import read_table, settings

if TYPE_CHECKING:
    from collections.abc import Callable


def test_variants_and_places_that_cannot_run_are_rows_with_the_reason(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    made = {"model": "lenet5", "stage": "build", "format": "fake"}
    variants = (
        fake("good"),
        fake("not asked for", benchmark=False),
        Variant(name="broken", status="failed", error="exporter said no", **made),
        Variant(name="absent", status="skipped", error="no library", **made),
    )
    rows = read_table(
        work, benchmark(work, data, variants, settings(devices=("cpu", "cuda:7"), rounds=1)), "benchmarks"
    )
    told = {(r["variant"], r["device"]): (r["status"], r["error"]) for r in rows.iter_rows(named=True)}
    assert told == {
        ("good", "cpu"): ("ok", None),
        ("good", "cuda:7"): ("skipped", "cuda:7: not here"),
        ("broken", "cpu"): ("failed", "exporter said no"),
        ("absent", "cpu"): ("skipped", "no library"),
    }
    assert len(rows) == 2 * len(told)


def test_every_sample_is_kept_and_the_rows_follow_from_them(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake("a"), fake("b", ms=1)), settings())
    samples, rows = read_table(work, measured, "latencies"), read_table(work, measured, "benchmarks")
    place = ["variant", "runtime", "device", "batch_size"]
    assert samples.schema == frames.frame("latencies", []).schema
    assert not samples.select(*place, "round", "query").is_duplicated().any()
    assert samples.select(place).unique().height == len(rows) == 4
    for row in rows.iter_rows(named=True):
        own = samples.filter(pl.all_horizontal(pl.col(key) == row[key] for key in place))
        assert len(own) == row["queries"] >= 2 * 64
        assert own["latency_ms"].mean() == pytest.approx(row["latency_mean_ms"])
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["latency_mean_ms"])
        assert own.n_unique("round") == row["rounds"] == len(row["round_turns"])
        for (_, of_round), medians in zip(own.group_by("round", maintain_order=True), turns(row), strict=True):
            assert min(medians) <= of_round["latency_ms"].quantile(0.5, "lower") <= max(medians)
        assert (row["latency_p99_ms"] is None) == (len(own) < queries_needed(99))
        assert row["latency_median_ms"] in own["latency_ms"].to_list()


def test_memory_is_what_the_model_takes_above_the_librarys(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake("small"), fake("large", megabytes=200)), settings(rounds=1))
    rows = read_table(work, measured, "memory")
    assert rows["vram_peak_bytes"].to_list() == [None] * 4
    for row in rows.iter_rows(named=True):
        assert row["ram_usage_bytes"] == row["rss_peak_bytes"] - row["rss_baseline_bytes"]
        expected = 200 * 2**20 if row["variant"] == "large" else 0
        assert expected <= row["ram_usage_bytes"] < expected + 30 * 2**20


def test_agreement_is_with_the_nearest_measured_ancestor(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variants = (
        fake("weights"),
        fake("weights/onnx", parent="weights", benchmark=False),
        fake("weights/onnx/int8", parent="weights/onnx", classes=5),
    )
    (work.scratch / "names.json").write_text(
        json.dumps([f"{row}.png" for row in range(len(np.load(work.store.get(data.labels))))])
    )
    named = data.model_copy(update={"names": work.store.put(work.scratch / "names.json", "json")})
    assert benchmark_task.about.extra({"data": named}) != benchmark_task.about.extra({"data": data}), "the key has them"  # type: ignore[attr-defined]
    measured = benchmark(work, named, variants, settings(rounds=1))
    rows = {row["variant"]: row for row in read_table(work, measured, "evaluations").iter_rows(named=True)}
    said = read_table(work, measured, "predictions")
    assert said["file"].to_list() == [f"{row}.png" for row in said["image"]]
    one, other = (said.filter(pl.col("variant") == name).sort("image")["prediction"] for name in rows)
    assert rows["weights"]["parent"] is rows["weights"]["agreement"] is None
    assert rows["weights/onnx/int8"]["parent"] == "weights"
    assert rows["weights/onnx/int8"]["agreement"] == pytest.approx((one == other).mean())
    assert 0 < (one == other).mean() < 1


def test_what_was_bad_about_a_measurement_is_told_and_calm_is_null() -> None:
    def told(medians: list[float], stable: bool = True, foreign: float = 0.02, gpu: str | None = None) -> str | None:
        answer = {"stable": stable, "certificate": {"foreign_cpu": foreign, "gpu_trouble": gpu}}
        return conditions([Visit(np.array([m]), np.array([1]), None, 1, answer) for m in medians], medians)

    assert told([100, 110, 105], foreign=0.2) is None
    assert told([100, 230, 105]) == "rounds differ by 130%"
    assert told([100, 100], foreign=0.5) == "other processes used 50% of the cores"
    assert told([100, 100, 100], stable=False) == "warm-up windows did not agree in 3 of 3 rounds"
    assert told([100], gpu="thermal slowdown") == "thermal slowdown"


@pytest.mark.alone
def test_other_processes_are_noticed(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in machine.affinity()]
    try:
        rows = read_table(work, benchmark(work, data, (fake("a", ms=5),), settings(batch_sizes=(1,))), "benchmarks")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert "other processes used" in rows["conditions"][0]


@pytest.mark.alone
def test_throughput_is_an_experiment_of_its_own_with_a_query_in_flight_a_slot(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    asked = settings(throughput=True, threads=2, batch_sizes=(1, 4))
    measured = benchmark(work, data, (fake("a", ms=4), fake("broken", fault="raise")), asked)
    rows, samples = read_table(work, measured, "throughputs"), read_table(work, measured, "completions")
    assert dict(rows.select("variant", "status").iter_rows()) == {"a": "ok", "broken": "failed"}
    latency = read_table(work, measured, "benchmarks").filter(pl.col("variant") == "a")
    for row, single in zip(rows.head(2).iter_rows(named=True), latency.iter_rows(named=True), strict=True):
        assert row["slots"] == 2
        assert row["images_per_second"] == pytest.approx(2 * single["images_per_second"], rel=0.15)
        assert row["images_per_second"] == pytest.approx(np.mean(row["round_images_per_second"]))
        own = samples.filter((pl.col("variant") == "a") & (pl.col("batch_size") == row["batch_size"]))
        assert len(own) == row["queries"] >= 2 * 64


def test_every_visit_has_a_certificate(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    measured = benchmark(work, data, (fake("a"),), settings(throughput=True))
    rows = read_table(work, measured, "certificates")
    assert rows.select("batch_size", "experiment", "round").rows() == [
        (size, experiment, number) for experiment in ("latency", "throughput") for size in (1, 4) for number in (1, 2)
    ]
    for row in rows.iter_rows(named=True):
        assert row["provider"] == "FakeProvider"
        assert row["cpu_model"] and row["affinity"]
        assert json.loads(row["libraries"])["numpy"] == np.__version__
        assert (row["energy_j"] is None) == (row["energy_note"] is not None)
