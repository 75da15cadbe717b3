"""The summary, the rule for the winner, the CSV of study S2, and the tables that are published if one is invalid."""

from __future__ import annotations

import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.machine.certificate import HURRIED
from tasks.records import Benchmark, Select, Study
from tasks.tables import csv_view, figures, frames
from tasks.tables import summary as subject
from tasks.tables.schema import OF_A_STUDY
from tests.support import factory
from tests.support.factory import LATENCIES, REFERENCE, changed

FAST = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"
SECOND = "resnet34-w16/augment-none/onnx/int8-u8s8-reduced"


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return factory.tables()


def variants_of_roles(summary: subject.Summary) -> tuple[str | None, ...]:
    """Return the variants of the winner, the runner-up and the reference."""
    return tuple(row and row["variant"] for row in (summary.winner, summary.runner_up, summary.reference))


def test_the_winner_is_the_fastest_row_within_the_allowed_drop(tables: dict[str, pl.DataFrame]) -> None:
    summary = subject.summarise(tables, factory.study())
    assert variants_of_roles(summary) == (FAST, SECOND, REFERENCE)
    faster_rows = summary.frame.filter(
        (pl.col("batch_size") == 1) & (pl.col("latency_median_ms") < summary.winner["latency_median_ms"])
    )
    assert faster_rows.height > 0 and (faster_rows["drop"] > 0.01).all()
    assert dict(summary.frame.filter(pl.col("role").is_not_null()).select("role", "variant").iter_rows()) == {
        "winner": FAST,
        "runner-up": SECOND,
        "reference": REFERENCE,
    }
    for text in (FAST, "4.75", "top-1 0.981 against 0.989", "allowed drop of 0.01", f"Runner-up: {SECOND}"):
        assert text in summary.reason


def test_the_summary_has_every_benchmarked_row_and_the_error_of_each_skipped_one(
    tables: dict[str, pl.DataFrame],
) -> None:
    frame = subject.summarise(tables, factory.study()).frame
    key = ["variant", "runtime", "device", "batch_size"]
    assert frame.select(key).rows() == tables["benchmarks"].select(key).rows()
    skipped = frame.filter(pl.col("status") == "skipped")
    assert skipped.height == 8 and skipped["error"].null_count() == 0
    assert not skipped["eligible"].any() and not skipped["pareto"].any()
    assert frame.schema == frames.frame("summary", []).schema


def test_a_drop_equal_to_the_allowed_drop_is_allowed(tables: dict[str, pl.DataFrame]) -> None:
    where = {"variant": "lenet5/prune-0.25/onnx/int8-u8s8-reduced"}
    reference = subject.summarise(tables, factory.study()).reference["top1"]
    # In floating point the drop is 0.0100000000000000009.
    score = reference - 0.01
    assert reference - score > 0.01
    assert (
        variants_of_roles(subject.summarise(changed(tables, "evaluations", where, top1=score), factory.study()))[0]
        == where["variant"]
    )
    tables_with_larger_drop = changed(tables, "evaluations", where, top1=score - 1e-6)
    assert variants_of_roles(subject.summarise(tables_with_larger_drop, factory.study()))[0] == FAST


def test_rows_with_bad_conditions_never_win_and_are_not_on_the_pareto_front(tables: dict[str, pl.DataFrame]) -> None:
    tables_with_throttling = changed(tables, "benchmarks", {"variant": FAST}, conditions="throttled")
    summary = subject.summarise(tables_with_throttling, factory.study())
    assert summary.winner["variant"] == SECOND
    sentence = (
        f"The fastest that is accurate enough was measured under bad conditions and cannot win: {FAST} on onnxruntime"
    )
    assert sentence in summary.reason and "(throttled)" in summary.reason and "--again benchmark" in summary.reason
    assert "bad conditions" not in subject.summarise(tables, factory.study()).reason
    marked = summary.frame.filter(pl.col("variant") == FAST)
    assert not marked["eligible"].any() and not marked["pareto"].any()


def test_the_winner_is_chosen_by_the_studys_metric_and_batch_size(tables: dict[str, pl.DataFrame]) -> None:
    study = factory.study().model_copy(update={"select": Select(metric="macro_f1", batch_size=8, max_drop=0.0)})
    changed_tables = changed(
        tables, "evaluations", {"variant": "lenet5/augment-none"}, macro_f1=0.999, macro_f1_high=1.0
    )
    summary = subject.summarise(changed_tables, study)
    assert (summary.reference["variant"], summary.reference["batch_size"]) == ("lenet5/augment-none", 8)
    assert summary.winner is summary.reference and "the reference itself" in summary.reason


def test_the_speed_up_compares_with_the_reference_on_the_same_device(
    tables: dict[str, pl.DataFrame],
) -> None:
    def with_gpu_rows(name: str, time_factor: float) -> pl.DataFrame:
        gpu_rows = tables[name].with_columns(device=pl.lit("cuda:0"))
        if name == "benchmarks":
            gpu_rows = gpu_rows.with_columns(
                pl.col(c) * time_factor for c in LATENCIES if c != "turn_medians_ms"
            ).with_columns(turn_medians_ms=pl.col("turn_medians_ms").list.eval(pl.element() * time_factor))
        return pl.concat([tables[name], gpu_rows])

    tables_of_both_devices = tables | {
        name: with_gpu_rows(name, 0.1) for name in ("benchmarks", "evaluations", "memory")
    }
    # The study's devices are "auto", so that the GPU decides.
    summary = subject.summarise(tables_of_both_devices, factory.study())
    assert summary.reference["device"] == summary.winner["device"] == "cuda:0"
    cpu_winner = subject.summarise(tables, factory.study()).winner
    assert summary.winner["speedup"] == pytest.approx(cpu_winner["speedup"])
    study = factory.study().model_copy(update={"benchmark": Benchmark(devices=("cpu", "cuda:0"))})
    assert subject.summarise(tables_of_both_devices, study).reference["device"] == "cpu"


def test_the_reason_says_when_winner_and_runner_up_cannot_be_told_apart(tables: dict[str, pl.DataFrame]) -> None:
    winner_row = tables["benchmarks"].filter((pl.col("variant") == FAST) & (pl.col("batch_size") == 1)).to_dicts()[0]
    latencies = {key: winner_row[key] for key in LATENCIES} | {
        "latency_median_ms": winner_row["latency_median_ms"] * 1.001
    }
    changed_tables = changed(tables, "benchmarks", {"variant": SECOND, "batch_size": 1}, **latencies)
    reason = subject.summarise(changed_tables, factory.study()).reason
    assert "the two are not distinguishable (" in reason
    assert "not distinguishable" not in subject.summarise(tables, factory.study()).reason


def test_without_an_eligible_row_there_is_no_winner_and_the_reason_counts_the_causes(
    tables: dict[str, pl.DataFrame],
) -> None:
    tables_with_conditions = tables | {
        "benchmarks": tables["benchmarks"].with_columns(
            conditions=pl.when(pl.col("status") == "ok").then(pl.lit("another process on the device"))
        )
    }
    summary = subject.summarise(tables_with_conditions, factory.study())
    assert (summary.winner, summary.runner_up) == (None, None)
    assert summary.sentences[0].startswith(
        "No winner yet: none of the 24 rows at batch 1 may win (20 measured under bad conditions, 4 skipped)"
    )
    assert summary.provisional["variant"] == FAST
    assert summary.frame.filter(role="provisional")["variant"].to_list() == [FAST]
    assert f"Provisional best: {FAST} on onnxruntime, cpu, batch 1: 0.865 ms median, 4.75" in summary.reason
    assert "(another process on the device; so were 7 more that are accurate enough)" in summary.reason
    assert "with --again benchmark while nothing else runs on this machine" in summary.reason


def test_after_a_benchmark_with_too_little_time_the_advice_is_more_minutes_not_a_quiet_machine(
    tables: dict[str, pl.DataFrame],
) -> None:
    study = factory.study().model_copy(update={"benchmark": Benchmark(minutes=0.5)})

    def advice(conditions: str, study: Study) -> str:
        conditions_column = pl.when(pl.col("status") == "ok").then(pl.lit(conditions))
        return subject.summarise(
            tables | {"benchmarks": tables["benchmarks"].with_columns(conditions=conditions_column)}, study
        ).reason

    hurried = f"warm-up windows did not agree in 3 of 3 rounds, {HURRIED}"
    assert "--set benchmark.minutes=1." in advice(hurried, study) and "nothing else runs" not in advice(hurried, study)
    advice_for_both = advice(f"{hurried}; other processes used 60% of the cores", study)
    assert "--set benchmark.minutes=1 while nothing else runs on this machine" in advice_for_both
    for reason in (advice("rounds differ by 130%", study), advice(hurried, factory.study())):
        assert "minutes=" not in reason and "--again benchmark while nothing else runs" in reason


def test_with_a_winner_and_only_inaccurate_marked_rows_there_is_no_provisional_best(
    tables: dict[str, pl.DataFrame],
) -> None:
    marked_benchmarks = tables["benchmarks"].with_columns(
        conditions=pl.when(pl.col("status") == "ok").then(pl.lit("busy"))
    )
    inaccurate_evaluations = tables["evaluations"].with_columns(
        top1=pl.when(pl.col("runtime") == "eager").then("top1").otherwise(0.1)
    )
    not_eager = tables["benchmarks"]["runtime"] != "eager"
    changed_tables = tables | {
        "benchmarks": marked_benchmarks.with_columns(conditions=pl.when(not_eager).then("conditions")),
        "evaluations": inaccurate_evaluations,
    }
    summary = subject.summarise(changed_tables, factory.study())
    assert summary.winner is not None and summary.provisional is None and "provisional" not in summary.frame["role"]


def test_without_an_eager_fp32_row_there_is_no_reference_and_no_winner(tables: dict[str, pl.DataFrame]) -> None:
    tables_without_eager = tables | {"benchmarks": tables["benchmarks"].filter(pl.col("runtime") != "eager")}
    summary = subject.summarise(tables_without_eager, factory.study())
    assert variants_of_roles(summary) == (None, None, None) and "no reference" in summary.reason
    assert summary.frame["drop"].null_count() == summary.frame.height and not summary.frame["eligible"].any()


def test_a_single_round_gives_a_speed_up_without_an_upper_bound(tables: dict[str, pl.DataFrame]) -> None:
    first_rounds = tables["benchmarks"].with_columns(pl.col("round_turns", "turn_medians_ms").list.head(1))
    summary = subject.summarise(tables | {"benchmarks": first_rounds}, factory.study())
    assert summary.winner["speedup"] > 4 and summary.winner["speedup_high"] is None
    assert summary.winner["verdict"] == "indistinguishable" and "one round" in summary.reason


def test_an_interval_without_an_end_or_with_ends_too_far_apart_is_replaced_by_the_reason() -> None:
    assert figures.interval(0.5, 2.0) == "0.500–2.00"
    assert figures.interval(0.5, 2.0, " to ") == "0.500 to 2.00"
    assert figures.interval(3.6e-42, 2e5) == "rounds differ too much"
    assert figures.interval(0.0, None) == "one round"


def test_a_speed_up_is_not_computed_from_rounds_that_do_not_pair(tables: dict[str, pl.DataFrame]) -> None:
    changed_tables = changed(
        tables, "benchmarks", {"variant": FAST, "batch_size": 1}, round_turns=[1, 1], turn_medians_ms=[0.8, 0.8]
    )
    summary = subject.summarise(changed_tables, factory.study())
    assert summary.winner["variant"] == FAST and summary.winner["speedup"] is None
    assert "do not pair" in summary.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=9))
def test_pareto_marks_exactly_the_rows_that_no_other_row_dominates(points: list[tuple[int, int]]) -> None:
    candidates = [{"variant": f"v{i}", "runtime": "eager", "device": "cpu"} for i in range(len(points))]
    variant = {"model": "m", "stage": "train", "format": "safetensors", "precision": "fp32", "benchmark": True}
    measured = {"batch_size": 1, "rounds": 1, "queries": 1, "status": "ok"}
    pairs = list(zip(candidates, points, strict=True))
    rows_of = {
        "variants": [{**variant, "name": k["variant"], "status": "ok"} for k in candidates],
        "benchmarks": [
            {**k, **measured, "latency_median_ms": float(ms), "round_turns": [1], "turn_medians_ms": [float(ms)]}
            for k, (ms, _) in pairs
        ],
        "evaluations": [{**k, "images": 6, "top1": right / 6} for k, (_, right) in pairs],
        "memory": [],
        "throughputs": [],
    }
    summary = subject.summarise({name: frames.frame(name, rows) for name, rows in rows_of.items()}, Study())
    expected = [
        not any((ms <= row_ms and right >= row_right) and (ms, right) != (row_ms, row_right) for ms, right in points)
        for row_ms, row_right in points
    ]
    assert summary.frame["pareto"].to_list() == expected


def test_the_csv_has_the_columns_of_study_s2_and_no_figures_where_nothing_was_measured(
    tables: dict[str, pl.DataFrame],
) -> None:
    text = csv_view.csv(subject.summarise(tables, factory.study()).frame)
    assert text.splitlines()[0] == (
        "model_name,batch_size,optimization_technique,device,model_size_mb,accuracy_top_1,accuracy_top_5,ram_usage_mb,"
        "vram_usage_mb,latency_ms_per_batch,throughput_samples_per_sec"
    )
    rows = pl.read_csv(io.StringIO(text)).to_dicts()
    assert len(rows) == 48
    eager = next(r for r in rows if r["model_name"] == "resnet34-w16" and r["optimization_technique"] == "none (eager)")
    assert eager["accuracy_top_1"] == pytest.approx(100 * 356 / 360, abs=1e-3)
    # The factory's throughput is 1.8 times the rate of one query in flight.
    assert eager["throughput_samples_per_sec"] == pytest.approx(1.8 * 1000 / eager["latency_ms_per_batch"])
    techniques = {r["optimization_technique"] for r in rows}
    assert {
        "pruning 0.25 (eager)",
        "ONNX (onnxruntime)",
        "pruning 0.25 + ONNX int8 u8s8-reduced (onnxruntime)",
        "ONNX int8 dynamic (onnxruntime)",
    } <= techniques
    skipped = [r for r in rows if "TensorRT" in r["optimization_technique"]]
    assert len(skipped) == 8 and all(list(r.values())[4:] == [None] * 7 for r in skipped)


def test_the_csv_leaves_marked_times_empty_and_the_csv_of_marked_rows_has_them(tables: dict[str, pl.DataFrame]) -> None:
    assert csv_view.marked_csv(subject.summarise(tables, factory.study()).frame) is None
    latency = changed(tables, "benchmarks", {"variant": FAST, "batch_size": 8}, conditions="busy")
    frame = subject.summarise(
        changed(latency, "throughputs", {"variant": SECOND, "batch_size": 1}, conditions="hot"), factory.study()
    ).frame
    rows = pl.read_csv(io.StringIO(csv_view.csv(frame))).to_dicts()
    whole = pl.read_csv(io.StringIO(csv_view.csv(subject.summarise(tables, factory.study()).frame))).to_dicts()
    differing = [(before, after) for before, after in zip(whole, rows, strict=True) if before != after]
    (slow, slower), (few, fewer) = sorted(differing, key=lambda pair: -pair[0]["batch_size"])
    assert slower == slow | {"latency_ms_per_batch": None} and fewer == few | {"throughput_samples_per_sec": None}
    marked = pl.read_csv(io.StringIO(csv_view.marked_csv(frame) or ""))
    assert marked.columns == [*csv_view.CSV_COLUMNS, "conditions"]
    assert sorted(marked["conditions"]) == ["busy", "hot"]
    assert {row["latency_ms_per_batch"] for row in marked.to_dicts()} == {
        slow["latency_ms_per_batch"],
        few["latency_ms_per_batch"],
    }


def test_the_csv_has_one_kind_of_throughput_in_all_rows() -> None:
    study_tables = factory.tables()
    frame = subject.summarise(study_tables, factory.study()).frame

    def rates(frame: pl.DataFrame) -> list[float | None]:
        return pl.read_csv(io.StringIO(csv_view.csv(frame)))["throughput_samples_per_sec"].to_list()

    partly_measured = frame.with_columns(throughput=pl.when(pl.col("runtime") == "eager").then(pl.col("throughput")))
    assert rates(partly_measured) == partly_measured["throughput"].to_list(), (
        "a throughput that is missing must not be replaced by the rate of single queries"
    )
    unmeasured = frame.with_columns(throughput=pl.lit(None, pl.Float64))
    assert rates(unmeasured) == pytest.approx(unmeasured["images_per_second"].to_list())


def test_figures_for_people_have_three_significant_digits_and_no_exponent() -> None:
    assert [figures.sig(x) for x in (0.0123456, 0.14, 1.0, 99.96, 999.7, 123456.0)] == [
        "0.0123",
        "0.140",
        "1.00",
        "100",
        "1\u202f000",
        "123\u202f456",
    ]


@pytest.mark.slow
def test_aggregate_publishes_valid_tables_names_invalid_ones_and_builds_the_data_docs(tmp_path) -> None:
    from tasks.aggregate import aggregate
    from tasks.caching.work import Work

    work = Work.at(tmp_path)
    rows = factory.rows_of_tables()
    rows["trials"][0]["score"] = 1.5
    halves = {
        name: (table_rows[: len(table_rows) // 2], table_rows[len(table_rows) // 2 :])
        for name, table_rows in rows.items()
    }
    fragments = {name: tuple(work.rows(name, half) for half in parts) for name, parts in halves.items()}
    result = aggregate(work, factory.study(), fragments)
    assert result.winner == f"{FAST} on onnxruntime, cpu, batch 1"
    assert set(result.tables) == set(OF_A_STUDY) - {"trials"}
    assert len(result.failures) >= 1 and all("trials" in failure for failure in result.failures)
    assert pl.read_parquet(work.store.get(result.tables["latencies"])).height == len(rows["latencies"])
    assert (work.store.get(result.files["data_docs"]) / "index.html").is_file()
    assert work.store.get(result.files["benchmark_results.csv"]).read_text().startswith("model_name,")

    rows["evaluations"].append(dict(rows["evaluations"][0]))
    fragments["evaluations"] = (work.rows("evaluations", rows["evaluations"]),)
    result = aggregate(work, factory.study(), fragments)
    assert result.winner is None and "evaluations" in result.reason
    assert not {"summary", "evaluations", "trials"} & set(result.tables)
    assert "benchmark_results.csv" not in result.files


def test_a_marked_reference_is_said_beside_the_winners_speed_up(tables: dict[str, pl.DataFrame]) -> None:
    bad = changed(tables, "benchmarks", {"variant": REFERENCE, "runtime": "eager"}, conditions="throttled")
    outcome = subject.summarise(bad, factory.study())
    assert outcome.winner is not None and outcome.winner["variant"] == FAST
    assert " ms, itself measured under bad conditions: throttled)" in outcome.sentences[0]
