"""The published studies' own tables beside this run's figures: nothing published is lost, nothing of ours is made
up."""

from __future__ import annotations

import re
from html import unescape

import polars as pl
import polars.selectors as cs
import pytest

from flows.report.published import compare, lines, text
from flows.report.terminal import table_text
from flows.terminal.conclusion import held_out
from tasks.published import duration
from tasks.records import plugins
from tasks.tables import frames, schema, summary
from tasks.tables.figures import sig
from tests.support import factory
from tests.support.reports import page_of

STUDIES = plugins("published")
FIRST = "lenet5/augment-none"


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    made = factory.tables()
    return made | {"summary": summary.summarise(made, factory.study()).frame}


@pytest.fixture(scope="module")
def empty() -> dict[str, pl.DataFrame]:
    return {name: frames.frame(name, []) for name in schema.TABLES}


def figures(name: str, tables: dict[str, pl.DataFrame], source: str) -> set[str]:
    return {f for c in compare(name, tables).comparisons for _, of, row in lines(c) if of == source for f in row}


@pytest.mark.parametrize("name", STUDIES)
def test_every_published_figure_is_shown_whatever_was_measured(name, tables, empty):
    published = figures(name, tables, "published") - {"–"}
    assert len(published) >= 6
    # its F1 are of a model: without one there is no line
    if name != "resnet34_tensorrt":
        assert figures(name, empty, "published") - {"–"} == published
    words = text(compare(name, tables))
    assert all(figure in words for figure in published)


@pytest.mark.parametrize("name", STUDIES)
def test_what_was_not_measured_is_a_dash_and_never_a_published_figure(name, empty):
    assert figures(name, empty, "here") <= {"–"}
    assert compare(name, {}).measured_on == "not known"


@pytest.mark.parametrize("name", STUDIES)
def test_the_terminal_and_the_report_name_both_machines(name, tables):
    beside = compare(name, tables)
    words = text(beside, 100)
    assert f"published: {beside.published_on}" in " ".join(words.split())
    assert "Example CPU @ 2.50GHz, 2 cores, no GPU" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 100
    study = factory.study().model_copy(update={"published": name})
    html = page_of(tables, study)
    section = html[html.index('<h2 id="published">') : html.index('<h2 id="candidates">')]
    assert beside.published_on in unescape(section)
    assert "Example CPU @ 2.50GHz" in section
    assert section.count("<caption>") == len(beside.comparisons)


def rows_of(name: str, tables: dict[str, pl.DataFrame], title: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    (found,) = (c for c in compare(name, tables).comparisons if c.title.startswith(title))
    return {line.key: line.measured for line in found.lines}


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
    tried = table.filter(parent).with_columns(
        name=pl.lit("lenet5/augment-trivialaugment-try"), validation_macro_f1=pl.lit(0.9999)
    )
    longer = table.filter(full).with_columns(
        name=pl.lit("lenet5/augment-none-long"), setting=pl.lit("none, longer"), validation_macro_f1=pl.lit(0.9998)
    )
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
        place
        | {
            "part": part,
            "queries": 700,
            "mean_ms": mean,
            "std_ms": 0.1,
            "min_ms": 0.1,
            "median_ms": mean,
            "p90_ms": 2.0,
            "p95_ms": 2.5,
            "p99_ms": 3.0,
            "max_ms": 4.0,
            "total_ms": 700 * mean,
            "host_seconds": 1.25,
        }
        for part, mean in (("latency", 1.5), ("enqueue", 0.2), ("h2d", 0.3), ("compute", 1.0), ("d2h", 0.2))
    ]
    measured = tables | {"summary": ran, "gpu_times": frames.frame("gpu_times", parts)}
    here = rows_of("resnet34_tensorrt", measured, "ResNet-34")
    assert here["GPU compute ms",] == ("0.100", "4.00", "1.00", "1.00", "2.00", "2.50", "3.00")
    assert rows_of("resnet34_tensorrt", measured, "Its totals")["total",] == ("667", "1.25", "0.700")
    several = [
        place
        | {
            "slots": 2,
            "rounds": 3,
            "queries": 900,
            "images_per_second": 812.0,
            "status": "ok",
            "conditions": "throttled",
        }
    ]
    ahead = measured | {"throughputs": frames.frame("throughputs", several)}
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


def test_s2_has_a_line_a_technique_and_a_cell_a_batch_size_with_the_deviation_over_processes(tables):
    here = rows_of("densenet121_imagenet", tables, "Techniques")
    first = (
        tables["summary"]
        .filter(pl.col("runtime") == "eager", pl.col("batch_size") == 1, pl.col("stage") != "prune")
        .sort("latency_median_ms")["variant"][0]
    )
    row = tables["summary"].filter(variant=first, runtime="eager", batch_size=8).to_dicts()[0]
    size, _, _, *cells = here["none",]
    assert size == sig(row["size_bytes"] / 1e6)
    assert cells[1] == "–", "4 was not measured"
    assert cells[2] == f"{sig(row['latency_mean_ms'])}/{sig(row['throughput'])}", "8, as in the CSV"
    assert here["int8 ONNX",] is not None, "what the study left undone"
    deviation = rows_of("densenet121_imagenet", tables, "Deviation")["none",][2]
    assert deviation.startswith(f"{sig(row['latency_mean_ms'])} ± ")
    assert rows_of("densenet121_imagenet", tables, "Memory")["none",][0] == "20.0/–"


def test_s2_says_which_of_two_measurements_its_rate_is_and_never_mixes_them(tables):
    rate = lambda made: compare("densenet121_imagenet", made).comparisons[0].notes[0]  # noqa: E731
    assert "with several queries in flight" in rate(tables)
    alone = tables | {"summary": tables["summary"].with_columns(throughput=pl.lit(None, pl.Float64))}
    assert "one query in flight" in rate(alone)
    one = tables["summary"]["images_per_second"][0]
    assert f"/{sig(one)}" in "".join(figures("densenet121_imagenet", alone, "here"))
    gone = pl.when(pl.col("runtime") != "eager").then(pl.col("throughput"))
    mixed = tables | {"summary": tables["summary"].with_columns(throughput=gone)}
    cells = rows_of("densenet121_imagenet", mixed, "Techniques")["none",][3:]
    assert cells[0].endswith("/–"), "not measured, and the other measurement does not stand in"


def test_s4_finds_each_form_and_its_accuracy_by_the_models_name(tables):
    here = rows_of("runtime_formats", tables, "One model")
    scripted = pl.col("variant") == "resnet34-w16/augment-none/torchscript"
    row = tables["summary"].filter(scripted, pl.col("batch_size") == 1)
    size, median, _, top1 = here["resnet34-w16", "TorchScript CPU"]
    assert size == sig(row["size_bytes"][0] / 1e6)
    assert median == sig(row["latency_median_ms"][0])
    assert top1.startswith(f"{100 * row['top1'][0]:.1f} [")
    assert here["convnext", "ONNX"] is None, "not of this run"
    assert here["lenet5", "ONNX"], "not of the study: a line of its own"


def test_s4_tells_why_there_are_no_figures_of_a_gpu(tables):
    assert rows_of("runtime_formats", tables, "One model")["resnet34-w16", "TorchScript GPU"][1] == "skipped¹"
    assert "¹ skipped: this machine has no GPU\n" in text(compare("runtime_formats", tables))
    gpu = tables | {"environments": tables["environments"].with_columns(gpu=pl.lit("NVIDIA H100"))}
    assert "¹ skipped: the study's devices" in text(compare("runtime_formats", gpu))


def test_s4_compares_int8_with_onnx_fp32_by_paired_rounds_and_says_where_it_is_not_faster(tables):
    ratio = rows_of("runtime_formats", tables, "One model")["resnet34-w16", "ONNX int8"][2]
    assert 1.2 < float(ratio.split(" [")[0]) < 1.9, "0.41 / 0.27 in the factory"
    words = " ".join(text(compare("runtime_formats", tables)).split())
    assert "int8 was slower for 3 of 4" in words and "0.984" in words and "No int8 setting tried" not in words
    doubled = (
        pl.when(pl.col("variant").str.contains("int8"))
        .then(pl.col("turn_medians_ms").list.eval(pl.element() * 4))
        .otherwise("turn_medians_ms")
    )
    slow = tables | {"benchmarks": tables["benchmarks"].with_columns(turn_medians_ms=doubled)}
    words = " ".join(text(compare("runtime_formats", slow)).split())
    assert "Here int8 is slower for resnet34-w16" in words
    assert "No int8 setting tried was measurably faster than ONNX fp32 here for resnet34-w16 (" in words


def test_s5_compares_an_epoch_with_the_vanilla_one_of_the_same_model_and_tells_a_failed_training(tables):
    slower = pl.when(pl.col("model") == "lenet5").then(10 * pl.col("epoch_seconds")).otherwise("epoch_seconds")
    alike = pl.when(pl.col("technique") == "AMP").then(pl.lit("indistinguishable")).otherwise("verdict")
    two = tables | {"ablations": tables["ablations"].with_columns(epoch_seconds=slower, verdict=alike)}
    here = rows_of("convnext_speed", two, "Training: resnet34-w16")
    assert here["vanilla",][:2] == ("2.00 [1.80–2.20]", "1.00")
    assert here["mixed precision (AMP)",][1] == "2.00≈"
    assert here["everything",] == ("failed¹", "–", "–", "–")
    short = two | {"ablations": two["ablations"].with_columns(epochs=pl.lit(2, pl.Int64))}
    alone = rows_of("convnext_speed", short, "Training: resnet34-w16")
    assert alone["vanilla",][0] == "2.00", "the only epoch but the first is no interval"
    assert here["TC + AMP",] is None
    assert rows_of("convnext_speed", two, "Training: lenet5")["vanilla",][0].startswith("20.0 "), "no model is lost"
    assert "¹ failed: it did not fit\n" in text(compare("convnext_speed", two))


def test_s5_tells_reasons_below_the_table_and_what_became_of_the_studys_plans(tables):
    here = rows_of("convnext_speed", tables, "Inference: resnet34-w16")
    assert here["augment-none/onnx/engine-fp16", "tensorrt"] == ("skipped¹", "–", "–")
    assert here["augment-none", "eager"][1] == "1.00"
    words = " ".join(text(compare("convnext_speed", tables)).split())
    assert "did not do them; here: TensorRT skipped, quantization measured, QAT not asked for." in words
    assert "`burnish profile resnet34-w16/" in words and "× vanilla is derived" in words


@pytest.mark.parametrize(
    ("name", "own"), [("cifar_architectures", "CIFAR-10"), ("cifar100_architectures", "CIFAR-100")]
)
def test_s3_shows_both_halves_and_which_ran_is_the_studys_or_the_datas_to_say(name, own, tables):
    def halves(made):
        return {
            c.title.split("published on ")[1].split(";")[0]: (c.title.endswith("not run"), " ".join(c.notes))
            for c in compare(name, made).comparisons[:2]
        }

    # digits have ten classes as well
    for half, (left_out, notes) in halves(tables).items():
        assert left_out == (half != own)
        assert ("burnish run cifar" in notes) == left_out and ("running" in notes) != left_out
    known = tables | {"datasets": tables["datasets"].with_columns(label=pl.lit("CIFAR-100, JPEG-recompressed copy"))}
    assert {half for half, (left_out, _) in halves(known).items() if not left_out} == {"CIFAR-100"}
    title = compare(name, known).comparisons[0].title
    assert title.endswith("published on CIFAR-100; here: CIFAR-100, JPEG-recompressed copy")
    assert {"75.2", "96"} <= figures(name, tables, "published")


def test_a_training_time_below_a_minute_is_told_in_seconds():
    assert [duration(seconds) for seconds in (3.19, 59.0, 60.0, 2760.0, 3600.0, 5400.0)] == [
        "3.19 s",
        "59.0 s",
        "1.00 min",
        "46.0 min",
        "1.00 h",
        "1.50 h",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("name", STUDIES)
def test_figures_and_names_are_never_torn(name, width, tables):
    long = "timm:vit_tiny_patch16_224-32px"
    named = {key: frame.with_columns(cs.string().str.replace("resnet34-w16", long)) for key, frame in tables.items()}
    beside = compare(name, named)
    words = text(beside, width)
    assert max(map(len, words.splitlines())) <= width
    cells = {cell for line in words.splitlines() for cell in re.split(r" {2,}", line.strip())}
    for comparison in beside.comparisons:
        assert all(set(told) <= cells for _, _, told in lines(comparison))
    if any(long in "".join(line.key) for comparison in beside.comparisons for line in comparison.lines):
        assert long in words


def test_a_time_measured_under_bad_conditions_has_a_star_and_the_star_is_explained(tables):
    assert "*" not in text(compare("runtime_formats", tables))
    torn = tables | {
        "summary": tables["summary"].with_columns(conditions=pl.lit("other processes used 90% of the cores"))
    }
    words = text(compare("runtime_formats", torn))
    assert "* measured under bad conditions" in words
    assert rows_of("runtime_formats", torn, "One model")["resnet34-w16", "ONNX"][1].endswith("*")


def test_the_label_of_the_data_stands_in_header_tables_and_terminal(tables):
    copy = "CIFAR-10, JPEG-recompressed copy"
    known = tables | {"datasets": tables["datasets"].with_columns(label=pl.lit(copy), path=pl.lit("some/path"))}
    html = page_of(known, factory.study())
    assert f" on {copy} · run run-1" in html
    assert "has the throughput" in html, "which of two measurements the CSV has"
    assert f"{copy}: the data set by split" in html
    assert f"; {copy} (" in compare("runtime_formats", known).measured_on
    assert f"of the 360 held-out images of {copy}" in table_text(
        known["summary"], images=held_out(known["datasets"], copy)
    )
    old = known | {"datasets": known["datasets"].drop("label")}
    assert "; some/path (" in compare("runtime_formats", old).measured_on, "a run of an older version"
