"""The summary, the winner's rule, S2's CSV, and what is published when a table is unfit."""

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


def names(found: subject.Summary) -> tuple[str | None, ...]:
    return tuple(row and row["variant"] for row in (found.winner, found.runner_up, found.reference))


def test_winner_is_the_fastest_row_within_the_allowed_drop(tables: dict[str, pl.DataFrame]) -> None:
    found = subject.summarise(tables, factory.study())
    assert names(found) == (FAST, SECOND, REFERENCE)
    ahead = found.frame.filter(
        (pl.col("batch_size") == 1) & (pl.col("latency_median_ms") < found.winner["latency_median_ms"])
    )
    assert ahead.height > 0 and (ahead["drop"] > 0.01).all()
    assert dict(found.frame.filter(pl.col("role").is_not_null()).select("role", "variant").iter_rows()) == {
        "winner": FAST,
        "runner-up": SECOND,
        "reference": REFERENCE,
    }
    for part in (FAST, "4.75", "top-1 0.981 against 0.989", "allowed drop of 0.01", f"Runner-up: {SECOND}"):
        assert part in found.reason


def test_every_benchmarked_row_is_in_the_summary_failed_and_skipped_ones_with_their_reason(
    tables: dict[str, pl.DataFrame],
) -> None:
    frame = subject.summarise(tables, factory.study()).frame
    key = ["variant", "runtime", "device", "batch_size"]
    assert frame.select(key).rows() == tables["benchmarks"].select(key).rows()
    skipped = frame.filter(pl.col("status") == "skipped")
    assert skipped.height == 8 and skipped["error"].null_count() == 0
    assert not skipped["eligible"].any() and not skipped["pareto"].any()
    assert frame.schema == frames.frame("summary", []).schema


def test_a_drop_of_exactly_the_limit_is_allowed(tables: dict[str, pl.DataFrame]) -> None:
    where = {"variant": "lenet5/prune-0.25/onnx/int8-u8s8-reduced"}
    reference = subject.summarise(tables, factory.study()).reference["top1"]
    # 0.0100000000000000009 below in floating point
    score = reference - 0.01
    assert reference - score > 0.01
    assert (
        names(subject.summarise(changed(tables, "evaluations", where, top1=score), factory.study()))[0]
        == where["variant"]
    )
    over = changed(tables, "evaluations", where, top1=score - 1e-6)
    assert names(subject.summarise(over, factory.study()))[0] == FAST


def test_rows_of_bad_conditions_never_win_and_are_not_on_the_front(tables: dict[str, pl.DataFrame]) -> None:
    bad = changed(tables, "benchmarks", {"variant": FAST}, conditions="throttled")
    found = subject.summarise(bad, factory.study())
    assert found.winner["variant"] == SECOND
    told = (
        f"The fastest that is accurate enough was measured under bad conditions and cannot win: {FAST} on onnxruntime"
    )
    assert told in found.reason and "(throttled)" in found.reason and "--again benchmark" in found.reason
    assert "bad conditions" not in subject.summarise(tables, factory.study()).reason
    marked = found.frame.filter(pl.col("variant") == FAST)
    assert not marked["eligible"].any() and not marked["pareto"].any()


def test_metric_and_batch_size_of_the_study_decide(tables: dict[str, pl.DataFrame]) -> None:
    study = factory.study().model_copy(update={"select": Select(metric="macro_f1", batch_size=8, max_drop=0.0)})
    better = changed(tables, "evaluations", {"variant": "lenet5/augment-none"}, macro_f1=0.999, macro_f1_high=1.0)
    found = subject.summarise(better, study)
    assert (found.reference["variant"], found.reference["batch_size"]) == ("lenet5/augment-none", 8)
    assert found.winner is found.reference and "the reference itself" in found.reason


def test_speed_up_is_against_the_reference_model_of_the_same_device_and_batch_size(
    tables: dict[str, pl.DataFrame],
) -> None:
    def on_gpu(name: str, faster: float) -> pl.DataFrame:
        here = tables[name].with_columns(device=pl.lit("cuda:0"))
        if name == "benchmarks":
            here = here.with_columns(pl.col(c) * faster for c in LATENCIES if c != "turn_medians_ms").with_columns(
                turn_medians_ms=pl.col("turn_medians_ms").list.eval(pl.element() * faster)
            )
        return pl.concat([tables[name], here])

    both = tables | {name: on_gpu(name, 0.1) for name in ("benchmarks", "evaluations", "memory")}
    # devices: auto
    found = subject.summarise(both, factory.study())
    assert found.reference["device"] == found.winner["device"] == "cuda:0"
    plain = subject.summarise(tables, factory.study()).winner
    assert found.winner["speedup"] == pytest.approx(plain["speedup"])
    study = factory.study().model_copy(update={"benchmark": Benchmark(devices=("cpu", "cuda:0"))})
    assert subject.summarise(both, study).reference["device"] == "cpu"


def test_the_reason_says_so_when_winner_and_runner_up_cannot_be_told_apart(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["benchmarks"].filter((pl.col("variant") == FAST) & (pl.col("batch_size") == 1)).to_dicts()[0]
    same = {key: rows[key] for key in LATENCIES} | {"latency_median_ms": rows["latency_median_ms"] * 1.001}
    close = changed(tables, "benchmarks", {"variant": SECOND, "batch_size": 1}, **same)
    reason = subject.summarise(close, factory.study()).reason
    assert "the two are not distinguishable (" in reason
    assert "not distinguishable" not in subject.summarise(tables, factory.study()).reason


def test_without_an_eligible_row_there_is_no_winner_and_the_reason_counts_what_removed_them(
    tables: dict[str, pl.DataFrame],
) -> None:
    bad = tables | {
        "benchmarks": tables["benchmarks"].with_columns(
            conditions=pl.when(pl.col("status") == "ok").then(pl.lit("another process on the device"))
        )
    }
    found = subject.summarise(bad, factory.study())
    assert (found.winner, found.runner_up) == (None, None)
    assert found.sentences[0].startswith(
        "No winner yet: none of the 24 rows at batch 1 may win (20 measured under bad conditions, 4 skipped)"
    )
    assert found.provisional["variant"] == FAST
    assert found.frame.filter(role="provisional")["variant"].to_list() == [FAST]
    assert f"Provisional best: {FAST} on onnxruntime, cpu, batch 1: 0.865 ms median, 4.75" in found.reason
    assert "(another process on the device; so were 7 more that are accurate enough)" in found.reason
    assert "with --again benchmark while nothing else runs on this machine" in found.reason


def test_where_the_benchmark_had_too_little_time_more_of_it_is_advised_not_a_quieter_machine(
    tables: dict[str, pl.DataFrame],
) -> None:
    study = factory.study().model_copy(update={"benchmark": Benchmark(minutes=0.5)})

    def advice(conditions: str, study: Study) -> str:
        marked = pl.when(pl.col("status") == "ok").then(pl.lit(conditions))
        return subject.summarise(
            tables | {"benchmarks": tables["benchmarks"].with_columns(conditions=marked)}, study
        ).reason

    hurried = f"warm-up windows did not agree in 3 of 3 rounds, {HURRIED}"
    assert "--set benchmark.minutes=1." in advice(hurried, study) and "nothing else runs" not in advice(hurried, study)
    both = advice(f"{hurried}; other processes used 60% of the cores", study)
    assert "--set benchmark.minutes=1 while nothing else runs on this machine" in both
    for told in (advice("rounds differ by 130%", study), advice(hurried, factory.study())):
        assert "minutes=" not in told and "--again benchmark while nothing else runs" in told


def test_without_an_accurate_row_nothing_is_provisional(tables: dict[str, pl.DataFrame]) -> None:
    marked = tables["benchmarks"].with_columns(conditions=pl.when(pl.col("status") == "ok").then(pl.lit("busy")))
    worse = tables["evaluations"].with_columns(top1=pl.when(pl.col("runtime") == "eager").then("top1").otherwise(0.1))
    eager = tables["benchmarks"]["runtime"] != "eager"
    kept = tables | {
        "benchmarks": marked.with_columns(conditions=pl.when(eager).then("conditions")),
        "evaluations": worse,
    }
    found = subject.summarise(kept, factory.study())
    assert found.winner is not None and found.provisional is None and "provisional" not in found.frame["role"]


def test_without_an_eager_fp32_row_there_is_no_reference_and_no_winner(tables: dict[str, pl.DataFrame]) -> None:
    rest = tables | {"benchmarks": tables["benchmarks"].filter(pl.col("runtime") != "eager")}
    found = subject.summarise(rest, factory.study())
    assert names(found) == (None, None, None) and "no reference" in found.reason
    assert found.frame["drop"].null_count() == found.frame.height and not found.frame["eligible"].any()


def test_a_single_round_gives_a_speed_up_without_an_upper_bound(tables: dict[str, pl.DataFrame]) -> None:
    first = tables["benchmarks"].with_columns(pl.col("round_turns", "turn_medians_ms").list.head(1))
    found = subject.summarise(tables | {"benchmarks": first}, factory.study())
    assert found.winner["speedup"] > 4 and found.winner["speedup_high"] is None
    assert found.winner["verdict"] == "indistinguishable" and "one round" in found.reason


def test_an_interval_of_ends_a_hundred_times_apart_is_told_as_too_few_rounds() -> None:
    assert figures.interval(0.5, 2.0) == "0.500–2.00"
    assert figures.interval(0.5, 2.0, " to ") == "0.500 to 2.00"
    assert figures.interval(3.6e-42, 2e5) == "rounds differ too much"
    assert figures.interval(0.0, None) == "one round"


def test_rounds_that_do_not_pair_are_not_compared(tables: dict[str, pl.DataFrame]) -> None:
    short = changed(
        tables, "benchmarks", {"variant": FAST, "batch_size": 1}, round_turns=[1, 1], turn_medians_ms=[0.8, 0.8]
    )
    found = subject.summarise(short, factory.study())
    assert found.winner["variant"] == FAST and found.winner["speedup"] is None
    assert "do not pair" in found.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=9))
def test_pareto_marks_exactly_the_rows_that_no_other_dominates(points: list[tuple[int, int]]) -> None:
    key = [{"variant": f"v{i}", "runtime": "eager", "device": "cpu"} for i in range(len(points))]
    variant = {"model": "m", "stage": "train", "format": "safetensors", "precision": "fp32", "benchmark": True}
    measured = {"batch_size": 1, "rounds": 1, "queries": 1, "status": "ok"}
    pairs = list(zip(key, points, strict=True))
    rows_of = {
        "variants": [{**variant, "name": k["variant"], "status": "ok"} for k in key],
        "benchmarks": [
            {**k, **measured, "latency_median_ms": float(ms), "round_turns": [1], "turn_medians_ms": [float(ms)]}
            for k, (ms, _) in pairs
        ],
        "evaluations": [{**k, "images": 6, "top1": right / 6} for k, (_, right) in pairs],
        "memory": [],
        "throughputs": [],
    }
    found = subject.summarise({name: frames.frame(name, rows) for name, rows in rows_of.items()}, Study())
    expected = [
        not any((ms <= own_ms and right >= own) and (ms, right) != (own_ms, own) for ms, right in points)
        for own_ms, own in points
    ]
    assert found.frame["pareto"].to_list() == expected


def test_csv_has_the_columns_of_study_s2_and_empty_figures_where_nothing_was_measured(
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


def test_csv_leaves_times_of_bad_conditions_empty_and_a_second_file_has_them(tables: dict[str, pl.DataFrame]) -> None:
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


def test_csv_has_one_measurement_of_throughput_in_all_rows() -> None:
    made = factory.tables()
    frame = subject.summarise(made, factory.study()).frame

    def rates(frame: pl.DataFrame) -> list[float | None]:
        return pl.read_csv(io.StringIO(csv_view.csv(frame)))["throughput_samples_per_sec"].to_list()

    some = frame.with_columns(throughput=pl.when(pl.col("runtime") == "eager").then(pl.col("throughput")))
    assert rates(some) == some["throughput"].to_list(), "the rate of one query does not stand in for one that failed"
    alone = frame.with_columns(throughput=pl.lit(None, pl.Float64))
    assert rates(alone) == pytest.approx(alone["images_per_second"].to_list())


def test_figures_for_people_have_three_digits_and_no_exponent() -> None:
    assert [figures.sig(x) for x in (0.0123456, 0.14, 1.0, 99.96, 999.7, 123456.0)] == [
        "0.0123",
        "0.140",
        "1.00",
        "100",
        "1\u202f000",
        "123\u202f456",
    ]


@pytest.mark.slow
def test_aggregate_publishes_the_fit_tables_names_the_unfit_and_builds_the_data_docs(tmp_path) -> None:
    from tasks.aggregate import aggregate
    from tasks.caching.work import Work

    work = Work.at(tmp_path)
    rows = factory.rows_of_tables()
    rows["trials"][0]["score"] = 1.5
    halves = {name: (made[: len(made) // 2], made[len(made) // 2 :]) for name, made in rows.items()}
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
