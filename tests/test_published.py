"""The published studies' own tables beside this run's figures: nothing published is lost, nothing of ours is made up."""

from __future__ import annotations

import factory
import polars as pl
import pytest

from flows.published import compare, lines, text
from flows.report import page
from tasks import schema, summary
from tasks import tables as contract
from tasks.records import plugins

STUDIES = plugins("published")
FIRST = "lenet5/augment-none"


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    made = factory.tables()
    return made | {"summary": summary.summarise(made, factory.study()).frame}


@pytest.fixture(scope="module")
def empty() -> dict[str, pl.DataFrame]:
    return {name: contract.frame(name, []) for name in schema.TABLES}


def figures(name: str, tables: dict[str, pl.DataFrame], source: str) -> set[str]:
    return {f for c in compare(name, tables).comparisons for _, of, row in lines(c) if of == source for f in row}


@pytest.mark.parametrize("name", STUDIES)
def test_every_published_figure_is_shown_whatever_was_measured(name, tables, empty):
    published = figures(name, tables, "published") - {"–"}
    assert len(published) >= 6
    if name != "resnet34_tensorrt":  # its F1 are of a model: without one there is no line
        assert figures(name, empty, "published") - {"–"} == published
    words = text(compare(name, tables))
    assert all(figure in words for figure in published)


@pytest.mark.parametrize("name", STUDIES)
def test_what_was_not_measured_is_a_dash_and_never_a_published_figure(name, empty):
    assert figures(name, empty, "here") <= {"–"}
    assert compare(name, {}).here == "not known"


@pytest.mark.parametrize("name", STUDIES)
def test_the_terminal_and_the_report_name_both_machines(name, tables):
    beside = compare(name, tables)
    words = text(beside, 100)
    assert f"published: {beside.there}" in words
    assert "Example CPU @ 2.50GHz, 2 cores, no GPU" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 100
    study = factory.study().model_copy(update={"published": name})
    html = page(tables, study, {}, "run-1")
    section = html[html.index('<h2 id="published">') : html.index('<h2 id="candidates">')]
    assert beside.there in section
    assert "Example CPU @ 2.50GHz" in section
    assert section.count("<caption>") == len(beside.comparisons)


def rows_of(name: str, tables: dict[str, pl.DataFrame], title: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    (found,) = (c for c in compare(name, tables).comparisons if c.title.startswith(title))
    return {line.key: line.here for line in found.lines}


def test_s1_shows_the_held_out_score_of_each_stage_with_the_spread_over_the_seeds(tables):
    here = rows_of("resnet34_tensorrt", tables, "F1 after each stage")
    scores = tables["evaluations"].filter(pl.col("variant") == "lenet5/train")["macro_f1"]
    assert here["lenet5", "initial training"][0].startswith(f"{scores[0]:.4f} (")
    assert here["lenet5", "initial training"][1] == "0.9780 ± 0.0010 (3 seeds)"
    assert here["lenet5", "tuned hyper-parameters"][1] == "one seed"
    assert ("lenet5", "tuned + augmented data (trivialaugment)") in here, "the best policy on validation images"
    assert ("lenet5", "kept: no augmentation") in here


def test_s1_tells_the_seconds_of_training_alone_and_those_of_compilation_apart(tables):
    here = rows_of("resnet34_tensorrt", tables, "F1 after each stage")
    (seeds,) = tables["seeds"].filter(pl.col("variant") == "lenet5/train").to_dicts()
    mine = (pl.col("variant") == "lenet5/train") & (pl.col("split") == "train")
    epochs = tables["epochs"].with_columns(seed=pl.when(mine).then(seeds["chosen"]).otherwise("seed"))
    told = rows_of("resnet34_tensorrt", tables | {"epochs": epochs}, "F1 after each stage")
    assert here["lenet5", "initial training"][2] == "–", "of the chosen seed there are no epochs"
    assert told["lenet5", "initial training"][2] == "7.20", "12 training epochs of 0.6 s, validation apart"
    first = pl.when(mine & (pl.col("epoch") == 1)).then(4.0)
    compiled = rows_of(
        "resnet34_tensorrt", tables | {"epochs": epochs.with_columns(compile_seconds=first)}, "F1 after each stage"
    )
    assert compiled["lenet5", "initial training"][2] == "7.20 + 4.00"


def test_s1_shows_the_policy_that_goes_on_not_one_that_scored_better_in_short(tables):
    table, parent = tables["variants"], pl.col("name") == "lenet5/augment-trivialaugment"
    full = pl.col("name") == "lenet5/augment-crop_flip"
    tried = table.filter(parent).with_columns(name=pl.lit("lenet5/augment-trivialaugment-try"),
                                              validation_macro_f1=pl.lit(0.9999))  # fmt: skip
    longer = table.filter(full).with_columns(name=pl.lit("lenet5/augment-none-long"), setting=pl.lit("none, longer"),
                                             validation_macro_f1=pl.lit(0.9998))  # fmt: skip
    both = pl.concat([table.filter(~parent), tried, longer])
    keys = rows_of("resnet34_tensorrt", tables | {"variants": both}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (crop_flip)") in keys, "trained in full"
    assert ("lenet5", "tuned, as long as with augmented data") in keys
    on = both.with_columns(
        benchmark=pl.when(pl.col("name") == "lenet5/augment-none").then(False).otherwise("benchmark")
    )
    won = on.with_columns(benchmark=pl.when(full).then(True).otherwise("benchmark"))
    keys = rows_of("resnet34_tensorrt", tables | {"variants": won}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (crop_flip)") in keys
    assert ("lenet5", "kept: no augmentation") not in keys
    keys = rows_of("resnet34_tensorrt", tables | {"variants": both.filter(~full)}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (trivialaugment, tried in short)") in keys


def test_s1_tells_trtexecs_parts_where_an_engine_was_executed(tables):
    summary_row = pl.col("runtime").eq("tensorrt") & pl.col("variant").eq(f"{FIRST}/onnx/engine-fp16")
    ran = tables["summary"].with_columns(
        status=pl.when(summary_row).then(pl.lit("ok")).otherwise("status"),
        latency_median_ms=pl.when(summary_row).then(1.5).otherwise("latency_median_ms"),
    )
    place = {"variant": f"{FIRST}/onnx/engine-fp16", "runtime": "tensorrt", "device": "cpu", "batch_size": 1}
    parts = [
        place | {"part": part, "queries": 700, "mean_ms": mean, "std_ms": 0.1, "min_ms": 0.1, "median_ms": mean,
                 "p90_ms": 2.0, "p95_ms": 2.5, "p99_ms": 3.0, "max_ms": 4.0, "total_ms": 700 * mean, "host_seconds": 1.25}
        for part, mean in (("latency", 1.5), ("enqueue", 0.2), ("h2d", 0.3), ("compute", 1.0), ("d2h", 0.2))
    ]  # fmt: skip
    measured = tables | {"summary": ran, "gpu_times": contract.frame("gpu_times", parts)}
    here = rows_of("resnet34_tensorrt", measured, "ResNet-34")
    assert here["GPU compute ms",] == ("0.100", "4.00", "1.00", "1.00", "2.00", "2.50", "3.00")
    assert rows_of("resnet34_tensorrt", measured, "Its totals")["total",] == ("667", "1.25", "0.700")
    several = [place | {"slots": 2, "rounds": 3, "queries": 900, "images_per_second": 812.0, "status": "ok",
                        "conditions": "throttled"}]  # fmt: skip
    ahead = measured | {"throughputs": contract.frame("throughputs", several)}
    assert rows_of("resnet34_tensorrt", ahead, "Its totals")["total",] == ("812*", "1.25", "0.700")
    assert "the rate here is that of 2 queries in flight" in text(compare("resnet34_tensorrt", ahead))
    torn = measured | {"summary": ran.with_columns(conditions=pl.lit("busy"))}
    assert rows_of("resnet34_tensorrt", torn, "Its totals")["total",] == ("667*", "1.25*", "0.700*")
    assert rows_of("resnet34_tensorrt", torn, "ResNet-34")["GPU compute ms",][0] == "0.100*"
    assert "* measured under bad conditions" in text(compare("resnet34_tensorrt", torn))
    without = rows_of("resnet34_tensorrt", tables, "ResNet-34")
    assert without["GPU compute ms",] is None
    assert without["latency ms",] is not None, "the fastest form on the CPU stands in, and the note says so"


def test_s1_times_no_form_that_is_not_accurate_enough(tables):
    one = tables["summary"].filter(pl.col("batch_size") == 1, pl.col("status") == "ok")
    quickest = one.sort("latency_median_ms")["variant"][0]
    out = tables["summary"].with_columns(eligible=pl.col("eligible") & (pl.col("variant") != quickest))
    (after,) = [key for key in rows_of("resnet34_tensorrt", tables | {"summary": out}, "Single") if key[0] == "after"]
    best = one.filter(pl.col("variant") != quickest, pl.col("eligible")).sort("latency_median_ms")["variant"][0]
    assert after[1].startswith(f"{best} on "), "the fastest of those that may win"


def test_s2_has_a_line_a_technique_and_batch_size_with_the_deviation_over_processes(tables):
    here = rows_of("densenet121_imagenet", tables, "Techniques")
    assert {batch for _, batch in here} == {"1", "4", "8", "16", "32"}
    fastest = tables["summary"].filter(
        pl.col("runtime") == "eager", pl.col("batch_size") == 8, pl.col("stage") != "prune"
    )
    mean = fastest.sort("latency_median_ms")["latency_mean_ms"][0]
    assert here["none", "8"][5].startswith(f"{summary.sig(mean)} ± ")
    assert here["none", "4"] is None, "not measured"
    assert here["int8 ONNX", "1"] is not None, "what the study left undone"


def test_s4_finds_each_form_and_its_accuracy_by_the_models_name(tables):
    here = rows_of("runtime_formats", tables, "One model")
    scripted = pl.col("variant") == "resnet34-w16/augment-none/torchscript"
    row = tables["summary"].filter(scripted, pl.col("batch_size") == 1)
    size, median, top1 = here["resnet34-w16", "TorchScript CPU"]
    assert size == summary.sig(row["size_bytes"][0] / 1e6)
    assert median == summary.sig(row["latency_median_ms"][0])
    assert top1.startswith(f"{100 * row['top1'][0]:.1f} (")
    assert here["convnext", "ONNX"] is None
    assert here["resnet34-w16", "TorchScript GPU"] is None


def test_s5_compares_an_epoch_with_the_vanilla_one_and_tells_a_failed_training(tables):
    one = tables | {"ablations": tables["ablations"].filter(pl.col("model") == "resnet34-w16")}
    here = rows_of("convnext_speed", one, "Training")
    assert here["vanilla",][:2] == ("2.00", "1.00")
    assert here["mixed precision (AMP)",][:2] == ("1.00", "2.00")
    assert here["everything",][0] == "failed: it did not fit"
    assert here["TC + AMP",] is None


def test_s3_has_the_cifar_100_figures_where_there_are_a_hundred_classes(tables):
    assert "75.2" not in figures("cifar_architectures", tables, "published")
    hundred = tables | {"datasets": tables["datasets"].with_columns(classes=pl.lit(100))}
    assert "75.2" in figures("cifar_architectures", hundred, "published")


def test_a_time_measured_under_bad_conditions_has_a_star_and_the_star_is_explained(tables):
    assert "*" not in text(compare("runtime_formats", tables))
    torn = tables | {
        "summary": tables["summary"].with_columns(conditions=pl.lit("other processes used 90% of the cores"))
    }
    words = text(compare("runtime_formats", torn))
    assert "* measured under bad conditions" in words
    assert rows_of("runtime_formats", torn, "One model")["resnet34-w16", "ONNX"][1].endswith("*")
