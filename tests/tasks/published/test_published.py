"""The tables of published studies beside a run's figures: no published figure is lost, and no measured one made up."""

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
    parts = factory.tables()
    return parts | {"summary": summary.summarise(parts, factory.study()).frame}


@pytest.fixture(scope="module")
def empty() -> dict[str, pl.DataFrame]:
    return {name: frames.frame(name, []) for name in schema.TABLES}


def figures(name: str, tables: dict[str, pl.DataFrame], source: str) -> set[str]:
    """Return the figures of one source, `published` or `here`, in all tables of a study."""
    rows = [line for comparison in compare(name, tables).comparisons for line in lines(comparison)]
    return {figure for _, row_source, row in rows if row_source == source for figure in row}


@pytest.mark.parametrize("name", STUDIES)
def test_every_published_figure_is_shown_whatever_was_measured(name, tables, empty):
    published = figures(name, tables, "published") - {"–"}
    assert len(published) >= 6
    # This study has a line per model of the run, so without models some of its figures have no line.
    if name != "resnet34_tensorrt":
        assert figures(name, empty, "published") - {"–"} == published
    words = text(compare(name, tables))
    assert all(figure in words for figure in published)


@pytest.mark.parametrize("name", STUDIES)
def test_a_figure_that_was_not_measured_is_a_dash_and_never_the_published_one(name, empty):
    assert figures(name, empty, "here") <= {"–"}
    assert compare(name, {}).measured_on == "not known"


@pytest.mark.parametrize("name", STUDIES)
def test_the_terminal_and_the_report_name_both_machines(name, tables):
    published = compare(name, tables)
    words = text(published, 100)
    assert f"published: {published.published_on}" in " ".join(words.split())
    assert "Example CPU @ 2.50GHz, 2 cores, no GPU" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 100
    study = factory.study().model_copy(update={"published": name})
    html = page_of(tables, study)
    section = html[html.index('<h2 id="published">') : html.index('<h2 id="candidates">')]
    assert published.published_on in unescape(section)
    assert "Example CPU @ 2.50GHz" in section
    assert section.count("<caption>") == len(published.comparisons)


def rows_of(name: str, tables: dict[str, pl.DataFrame], title: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return key and measured figures of each line of the table whose title begins with `title`."""
    (comparison,) = (c for c in compare(name, tables).comparisons if c.title.startswith(title))
    return {line.key: line.measured for line in comparison.lines}


def test_resnet34_tensorrt_shows_each_stages_held_out_score_with_its_spread_over_seeds(tables):
    rows = rows_of("resnet34_tensorrt", tables, "F1 after each stage")
    scores = tables["evaluations"].filter(pl.col("variant") == "lenet5/train")["macro_f1"]
    assert rows["lenet5", "initial training"][0].startswith(f"{scores[0]:.4f} (")
    assert rows["lenet5", "initial training"][1] == "0.9780 ± 0.0010 (3 seeds)"
    assert rows["lenet5", "tuned hyper-parameters"][1] == "one seed"
    assert ("lenet5", "tuned + augmented data (trivialaugment)") in rows, "the best policy on validation images"
    assert ("lenet5", "kept: no augmentation") in rows


def test_resnet34_tensorrt_shows_training_seconds_apart_from_those_of_compilation(tables):
    rows = rows_of("resnet34_tensorrt", tables, "F1 after each stage")
    (seeds,) = tables["seeds"].filter(pl.col("variant") == "lenet5/train").to_dicts()
    trained = (pl.col("variant") == "lenet5/train") & (pl.col("split") == "train")
    epochs = tables["epochs"].with_columns(seed=pl.when(trained).then(seeds["chosen"]).otherwise("seed"))
    with_chosen_seed = rows_of("resnet34_tensorrt", tables | {"epochs": epochs}, "F1 after each stage")
    assert rows["lenet5", "initial training"][2] == "–", "there are no epochs of the chosen seed"
    assert with_chosen_seed["lenet5", "initial training"][2] == "7.20", "12 epochs of 0.6 s each, without validation"
    first = pl.when(trained & (pl.col("epoch") == 1)).then(4.0)
    compiled = rows_of(
        "resnet34_tensorrt", tables | {"epochs": epochs.with_columns(compile_seconds=first)}, "F1 after each stage"
    )
    assert compiled["lenet5", "initial training"][2] == "7.20 + 4.00"


def test_resnet34_tensorrt_shows_the_chosen_policy_and_not_one_better_only_in_short(tables):
    table = tables["variants"]
    trivialaugment = pl.col("name") == "lenet5/augment-trivialaugment"
    crop_flip = pl.col("name") == "lenet5/augment-crop_flip"
    tried = table.filter(trivialaugment).with_columns(
        name=pl.lit("lenet5/augment-trivialaugment-try"), validation_macro_f1=pl.lit(0.9999)
    )
    longer = table.filter(crop_flip).with_columns(
        name=pl.lit("lenet5/augment-none-long"), setting=pl.lit("none, longer"), validation_macro_f1=pl.lit(0.9998)
    )
    variants = pl.concat([table.filter(~trivialaugment), tried, longer])
    keys = rows_of("resnet34_tensorrt", tables | {"variants": variants}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (crop_flip)") in keys, "the best policy that was trained in full"
    assert ("lenet5", "tuned, as long as with augmented data") in keys
    without_choice = variants.with_columns(
        benchmark=pl.when(pl.col("name") == "lenet5/augment-none").then(False).otherwise("benchmark")
    )
    won = without_choice.with_columns(benchmark=pl.when(crop_flip).then(True).otherwise("benchmark"))
    keys = rows_of("resnet34_tensorrt", tables | {"variants": won}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (crop_flip)") in keys
    assert ("lenet5", "kept: no augmentation") not in keys
    keys = rows_of("resnet34_tensorrt", tables | {"variants": variants.filter(~crop_flip)}, "F1 after each stage")
    assert ("lenet5", "tuned + augmented data (trivialaugment, tried in short)") in keys


def test_resnet34_tensorrt_shows_trtexecs_parts_where_an_engine_was_executed(tables):
    engine = pl.col("runtime").eq("tensorrt") & pl.col("variant").eq(f"{FIRST}/onnx/engine-fp16")
    summary_with_engine = tables["summary"].with_columns(
        status=pl.when(engine).then(pl.lit("ok")).otherwise("status"),
        latency_median_ms=pl.when(engine).then(1.5).otherwise("latency_median_ms"),
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
    measured = tables | {"summary": summary_with_engine, "gpu_times": frames.frame("gpu_times", parts)}
    rows = rows_of("resnet34_tensorrt", measured, "ResNet-34")
    assert rows["GPU compute ms",] == ("0.100", "4.00", "1.00", "1.00", "2.00", "2.50", "3.00")
    assert rows_of("resnet34_tensorrt", measured, "Its totals")["total",] == ("667", "1.25", "0.700")
    throughputs = [
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
    in_flight = measured | {"throughputs": frames.frame("throughputs", throughputs)}
    assert rows_of("resnet34_tensorrt", in_flight, "Its totals")["total",] == ("812*", "1.25", "0.700")
    assert "the rate here is that of 2 queries in flight" in text(compare("resnet34_tensorrt", in_flight))
    busy = measured | {"summary": summary_with_engine.with_columns(conditions=pl.lit("busy"))}
    assert rows_of("resnet34_tensorrt", busy, "Its totals")["total",] == ("667*", "1.25*", "0.700*")
    assert rows_of("resnet34_tensorrt", busy, "ResNet-34")["GPU compute ms",][0] == "0.100*"
    assert "* measured under bad conditions" in text(compare("resnet34_tensorrt", busy))
    without_engine = rows_of("resnet34_tensorrt", tables, "ResNet-34")
    assert without_engine["GPU compute ms",] is None
    assert without_engine["latency ms",] is not None, "the fastest form on the CPU stands in, and the note says so"


def test_resnet34_tensorrt_times_only_forms_that_are_accurate_enough(tables):
    timed = tables["summary"].filter(pl.col("batch_size") == 1, pl.col("status") == "ok")
    quickest = timed.sort("latency_median_ms")["variant"][0]
    changed = tables["summary"].with_columns(eligible=pl.col("eligible") & (pl.col("variant") != quickest))
    (after,) = [
        key for key in rows_of("resnet34_tensorrt", tables | {"summary": changed}, "Single") if key[0] == "after"
    ]
    best = timed.filter(pl.col("variant") != quickest, pl.col("eligible")).sort("latency_median_ms")["variant"][0]
    assert after[1].startswith(f"{best} on "), "the fastest form that is accurate enough to win"


def test_densenet121_imagenet_has_a_line_per_technique_and_a_cell_per_batch_size(tables):
    rows = rows_of("densenet121_imagenet", tables, "Techniques")
    fastest = (
        tables["summary"]
        .filter(pl.col("runtime") == "eager", pl.col("batch_size") == 1, pl.col("stage") != "prune")
        .sort("latency_median_ms")["variant"][0]
    )
    row = tables["summary"].filter(variant=fastest, runtime="eager", batch_size=8).to_dicts()[0]
    size, _, _, *cells = rows["none",]
    assert size == sig(row["size_bytes"] / 1e6)
    assert cells[1] == "–", "batch size 4 was not measured"
    assert cells[2] == f"{sig(row['latency_mean_ms'])}/{sig(row['throughput'])}", (
        "batch size 8 has the figures of the CSV"
    )
    assert rows["int8 ONNX",] is not None, "the study left it undone, and this run measured it"
    deviation = rows_of("densenet121_imagenet", tables, "Deviation")["none",][2]
    assert deviation.startswith(f"{sig(row['latency_mean_ms'])} ± ")
    assert rows_of("densenet121_imagenet", tables, "Memory")["none",][0] == "20.0/–"


def test_densenet121_imagenet_names_the_measurement_of_its_rate_and_never_mixes_two(tables):
    def note_on_rate(frames_of_run):
        return compare("densenet121_imagenet", frames_of_run).comparisons[0].notes[0]

    assert "with several queries in flight" in note_on_rate(tables)
    one_in_flight = tables | {"summary": tables["summary"].with_columns(throughput=pl.lit(None, pl.Float64))}
    assert "one query in flight" in note_on_rate(one_in_flight)
    images_per_second = tables["summary"]["images_per_second"][0]
    assert f"/{sig(images_per_second)}" in "".join(figures("densenet121_imagenet", one_in_flight, "here"))
    without_eager = pl.when(pl.col("runtime") != "eager").then(pl.col("throughput"))
    mixed = tables | {"summary": tables["summary"].with_columns(throughput=without_eager)}
    cells = rows_of("densenet121_imagenet", mixed, "Techniques")["none",][3:]
    assert cells[0].endswith("/–"), "this rate was not measured, and that of one query in flight does not stand in"


def test_runtime_formats_finds_each_form_and_its_accuracy_by_the_models_name(tables):
    rows = rows_of("runtime_formats", tables, "One model")
    scripted = pl.col("variant") == "resnet34-w16/augment-none/torchscript"
    row = tables["summary"].filter(scripted, pl.col("batch_size") == 1)
    size, median, _, top1 = rows["resnet34-w16", "TorchScript CPU"]
    assert size == sig(row["size_bytes"][0] / 1e6)
    assert median == sig(row["latency_median_ms"][0])
    assert top1.startswith(f"{100 * row['top1'][0]:.1f} [")
    assert rows["convnext", "ONNX"] is None, "this run has no such model"
    assert rows["lenet5", "ONNX"], "a model that the study lacks has a line of its own"


def test_runtime_formats_says_why_it_has_no_figures_of_a_gpu(tables):
    assert rows_of("runtime_formats", tables, "One model")["resnet34-w16", "TorchScript GPU"][1] == "skipped¹"
    assert "¹ skipped: this machine has no GPU\n" in text(compare("runtime_formats", tables))
    gpu = tables | {"environments": tables["environments"].with_columns(gpu=pl.lit("NVIDIA H100"))}
    assert "¹ skipped: the study's devices" in text(compare("runtime_formats", gpu))


def test_runtime_formats_compares_int8_with_fp32_by_paired_rounds_and_says_if_slower(tables):
    ratio = rows_of("runtime_formats", tables, "One model")["resnet34-w16", "ONNX int8"][2]
    assert 1.2 < float(ratio.split(" [")[0]) < 1.9, "tests/support/factory.py makes it 0.41 / 0.27"
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


def test_convnext_speed_compares_epochs_per_model_and_shows_a_failed_training(tables):
    slower = pl.when(pl.col("model") == "lenet5").then(10 * pl.col("epoch_seconds")).otherwise("epoch_seconds")
    verdict = pl.when(pl.col("technique") == "AMP").then(pl.lit("indistinguishable")).otherwise("verdict")
    measured = tables | {"ablations": tables["ablations"].with_columns(epoch_seconds=slower, verdict=verdict)}
    rows = rows_of("convnext_speed", measured, "Training: resnet34-w16")
    assert rows["vanilla",][:2] == ("2.00 [1.80–2.20]", "1.00")
    assert rows["mixed precision (AMP)",][1] == "2.00≈"
    assert rows["everything",] == ("failed¹", "–", "–", "–")
    short = measured | {"ablations": measured["ablations"].with_columns(epochs=pl.lit(2, pl.Int64))}
    rows_of_two_epochs = rows_of("convnext_speed", short, "Training: resnet34-w16")
    assert rows_of_two_epochs["vanilla",][0] == "2.00", "one epoch after the first gives no interval"
    assert rows["TC + AMP",] is None
    assert rows_of("convnext_speed", measured, "Training: lenet5")["vanilla",][0].startswith("20.0 "), (
        "every model of the run has a table"
    )
    assert "¹ failed: it did not fit\n" in text(compare("convnext_speed", measured))


def test_convnext_speed_gives_reasons_below_the_table_and_the_state_of_the_studys_plans(tables):
    rows = rows_of("convnext_speed", tables, "Inference: resnet34-w16")
    assert rows["augment-none/onnx/engine-fp16", "tensorrt"] == ("skipped¹", "–", "–")
    assert rows["augment-none", "eager"][1] == "1.00"
    words = " ".join(text(compare("convnext_speed", tables)).split())
    assert "did not do them; here: TensorRT skipped, quantization measured, QAT not asked for." in words
    assert "`burnish profile resnet34-w16/" in words and "× vanilla is derived" in words


@pytest.mark.parametrize(
    ("name", "data_set"), [("cifar_architectures", "CIFAR-10"), ("cifar100_architectures", "CIFAR-100")]
)
def test_cifar_architectures_show_both_halves_and_mark_the_one_that_was_not_run(name, data_set, tables):
    def halves(frames_of_run):
        return {
            c.title.split("published on ")[1].split(";")[0]: (c.title.endswith("not run"), " ".join(c.notes))
            for c in compare(name, frames_of_run).comparisons[:2]
        }

    # The digits of this run are neither half's data, so the half is that of the named study.
    for half, (left_out, notes) in halves(tables).items():
        assert left_out == (half != data_set)
        assert ("burnish run cifar" in notes) == left_out and ("running" in notes) != left_out
    known = tables | {"datasets": tables["datasets"].with_columns(label=pl.lit("CIFAR-100, JPEG-recompressed copy"))}
    assert {half for half, (left_out, _) in halves(known).items() if not left_out} == {"CIFAR-100"}
    title = compare(name, known).comparisons[0].title
    assert title.endswith("published on CIFAR-100; here: CIFAR-100, JPEG-recompressed copy")
    assert {"75.2", "96"} <= figures(name, tables, "published")


def test_training_times_are_given_in_seconds_minutes_or_hours():
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
def test_figures_and_names_are_never_broken_between_lines(name, width, tables):
    long = "timm:vit_tiny_patch16_224-32px"
    named = {key: frame.with_columns(cs.string().str.replace("resnet34-w16", long)) for key, frame in tables.items()}
    published = compare(name, named)
    words = text(published, width)
    assert max(map(len, words.splitlines())) <= width
    cells = {cell for line in words.splitlines() for cell in re.split(r" {2,}", line.strip())}
    for comparison in published.comparisons:
        assert all(set(row) <= cells for _, _, row in lines(comparison))
    if any(long in "".join(line.key) for comparison in published.comparisons for line in comparison.lines):
        assert long in words


def test_a_time_measured_under_bad_conditions_has_a_star_that_is_explained(tables):
    assert "*" not in text(compare("runtime_formats", tables))
    busy = tables | {
        "summary": tables["summary"].with_columns(conditions=pl.lit("other processes used 90% of the cores"))
    }
    words = text(compare("runtime_formats", busy))
    assert "* measured under bad conditions" in words
    assert rows_of("runtime_formats", busy, "One model")["resnet34-w16", "ONNX"][1].endswith("*")


def test_the_label_of_the_data_set_stands_in_the_report_and_in_the_terminal(tables):
    copy = "CIFAR-10, JPEG-recompressed copy"
    known = tables | {"datasets": tables["datasets"].with_columns(label=pl.lit(copy), path=pl.lit("some/path"))}
    html = page_of(known, factory.study())
    assert f" on {copy} · run run-1" in html
    assert "has the throughput" in html, "the page says which of two measurements the CSV has"
    assert f"{copy}: the data set by split" in html
    assert f"; {copy} (" in compare("runtime_formats", known).measured_on
    assert f"of the 360 held-out images of {copy}" in table_text(
        known["summary"], images=held_out(known["datasets"], copy)
    )
    old = known | {"datasets": known["datasets"].drop("label")}
    assert "; some/path (" in compare("runtime_formats", old).measured_on, "a run of an older version has no label"
