"""The winner is the fastest, the one of the highest throughput, the smallest or the most sparing one, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.report.terminal import table_text
from flows.settings import Mistake, load
from tasks.records import Select, Study
from tasks.tables import goals, summary
from tests.support import factory
from tests.support.factory import REFERENCE, changed
from tests.support.reports import page_of

if TYPE_CHECKING:
    from tasks.tables.rule import Row

Tables = dict[str, pl.DataFrame]
FAST = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"
SECOND = "resnet34-w16/augment-none/onnx/int8-u8s8-reduced"
SMALL = "lenet5/train"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return factory.tables()


def study(**select: object) -> Study:
    return factory.study().model_copy(update={"select": Select(**select)})


def reasons(result: summary.Summary) -> dict[str, Row]:
    return {row["variant"]: row["why_not"] for row in result.frame.filter(batch_size=1).iter_rows(named=True)}


def test_the_winner_has_the_highest_throughput_by_paired_rounds_although_another_form_is_faster(
    tables: Tables,
) -> None:
    rates = [4000.0, 4040.0, 4080.0]
    many = changed(
        tables,
        "throughputs",
        {"variant": SECOND, "batch_size": 1},
        images_per_second=4040.0,
        images_per_second_low=3900.0,
        images_per_second_high=4100.0,
        round_images_per_second=rates,
    )
    result = summary.summarise(many, study(by="throughput"))
    assert result.winner is not None and result.runner_up is not None
    assert (result.winner["variant"], result.runner_up["variant"]) == (SECOND, FAST)
    assert summary.summarise(many, study()).winner["variant"] == FAST
    first, runner_up = result.sentences[0], next(text for text in result.sentences if text.startswith("Runner-up"))
    assert first.startswith(f"{SECOND} on onnxruntime, cpu, batch 1: 4\u202f040 images/s, ")
    assert " times the throughput of the reference (" in first and " images/s)" in first
    ratio = 4040 / result.runner_up["throughput"]
    assert f"the winner has {goals.sig(ratio)[:3]}" in runner_up and "times the throughput." in runner_up
    assert f"has {goals.sig(1 / ratio)[:3]}" in reasons(result)[FAST]
    assert "times the winner's throughput (99 %: " in reasons(result)[FAST]
    assert result.frame["pareto"].to_list() == summary.summarise(many, study()).frame["pareto"].to_list()


def test_a_throughput_that_was_measured_under_bad_conditions_does_not_win(tables: Tables) -> None:
    usual = summary.summarise(tables, study(by="throughput")).winner
    assert usual is not None
    marked = changed(tables, "throughputs", {"variant": usual["variant"], "batch_size": 1}, conditions="throttled")
    result = summary.summarise(marked, study(by="throughput"))
    assert result.winner is not None and result.winner["variant"] != usual["variant"]
    assert (
        "The one of the highest throughput that is accurate enough was measured under bad conditions" in result.reason
    )
    assert summary.summarise(marked, study()).winner["variant"] == usual["variant"], "its latency is good"


@pytest.mark.parametrize(("by", "unit"), [("size", "MB"), ("memory", "MB of memory")])
def test_sizes_and_memory_are_compared_as_they_are_and_bad_conditions_change_neither(
    tables: Tables, by: str, unit: str
) -> None:
    busy = {
        **changed(tables, "memory", {"variant": f"{REFERENCE}/onnx", "batch_size": 1}, ram_usage_bytes=9_000_000),
        "benchmarks": tables["benchmarks"].with_columns(
            conditions=pl.when(pl.col("status") == "ok").then(pl.lit("busy"))
        ),
    }
    result = summary.summarise(busy, study(by=by))
    eligible = result.frame.filter(pl.col("eligible"), batch_size=1)
    column = {"size": "size_bytes", "memory": "ram_usage_bytes"}[by]
    assert result.winner is not None and result.winner[column] == eligible[column].min()
    assert result.winner["variant"] == {"size": FAST, "memory": f"{REFERENCE}/onnx"}[by]
    figure = f"{goals.sig(result.winner[column] / 1e6)} {unit} against the reference's "
    assert result.sentences[0].startswith(f"{result.winner['variant']} on onnxruntime, cpu, batch 1: {figure}")
    other = reasons(result)[SECOND]
    assert f" against {goals.sig(result.winner[column] / 1e6)} {unit}" in other and "times" not in other


def test_of_equally_large_forms_the_faster_one_wins_and_that_is_said(tables: Tables) -> None:
    sizes = tables["variants"].with_columns(size_bytes=pl.when(pl.col("size_bytes").is_not_null()).then(1_000_000))
    result = summary.summarise(tables | {"variants": sizes}, study(by="size"))
    assert result.winner is not None and result.winner["variant"] == FAST
    assert "which are equal in size, the winner has the smaller latency." in result.reason
    assert reasons(result)[SECOND].startswith("its size is the winner's, 1.00 MB, and its latency ")


def test_a_form_above_a_limit_does_not_win_and_is_told_so(tables: Tables) -> None:
    result = summary.summarise(tables, study(by="size", latency_ms=0.5, max_drop=0.05))
    winner = result.winner
    assert winner is not None and winner["latency_median_ms"] <= 0.5
    assert "within the allowed drop of 5 points and the limit of 0.5 ms" in result.reason
    faster = summary.summarise(tables, study(size_mb=0.05, max_drop=0.05))
    assert faster.winner is not None and faster.winner["size_bytes"] <= 50_000
    assert reasons(faster)[REFERENCE].startswith("too large: 5.35 MB, at most 0.05 MB; ")
    sparing = summary.summarise(tables, study(memory_mb=10))
    assert reasons(sparing)[REFERENCE].startswith("takes too much memory: 20.0 MB, at most 10 MB")


def test_without_a_form_within_the_limits_one_sentence_says_which_limit_and_which_form_is_nearest(
    tables: Tables,
) -> None:
    result = summary.summarise(tables, study(size_mb=0.5, latency_ms=3))
    assert result.winner is None and result.runner_up is None
    assert " too large" in result.sentences[0] and ", with at most 3 ms, 0.5 MB." in result.sentences[0]
    (sentence,) = [text for text in result.sentences if "The nearest is" in text]
    assert sentence.startswith("Of 8 that are accurate enough, the limit of size (select.size_mb = 0.5) excludes 8.")
    assert sentence.endswith(
        f"The nearest is {FAST} on onnxruntime, cpu, batch 1: too large: 0.869 MB, at most 0.5 MB."
    )


def test_memory_that_was_not_measured_keeps_no_limit(tables: Tables) -> None:
    unknown = tables | {"memory": tables["memory"].with_columns(ram_usage_bytes=pl.lit(None, pl.Int64))}
    result = summary.summarise(unknown, study(memory_mb=10))
    assert result.winner is None and "its memory was not measured, and may be at most 10 MB" in result.reason
    ranked = summary.summarise(unknown, study(by="memory"))
    assert ranked.winner is None and "without an accuracy or a memory" in ranked.reason


def test_throughput_must_be_measured_to_choose_by_it() -> None:
    with pytest.raises(Mistake, match=r"select\.by: throughput is not measured; set benchmark\.throughput = true"):
        load("quickstart", ["select.by=throughput"])
    assert load("quickstart", ["select.by=throughput", "benchmark.throughput=true"]).select.by == "throughput"


def test_report_and_terminal_show_what_the_rule_is_about(tables: Tables) -> None:
    chosen = study(by="memory", size_mb=3)
    frame = summary.summarise(tables, chosen).frame
    page = page_of({**tables, "summary": frame}, chosen)
    assert "The winner is the one that takes the least memory at batch 1, of the rows that lose at most 1 point" in page
    assert "top-1, with at most 3 MB." in page and "<dt>memory</dt><dd>20.0 MB of memory</dd>" in page
    for width in (80, 120):
        lines = table_text(frame.filter(batch_size=1), select=chosen.select, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert "size" in lines[0] and "RAM" in lines[0]
    busy = tables | {"benchmarks": changed(tables, "benchmarks", {"variant": SECOND}, conditions="busy")["benchmarks"]}
    assert "Measured under bad conditions, which change no memory:" in page_of(busy | {"summary": frame}, chosen)
    assert "so these rows cannot win:" in page_of(busy | {"summary": frame}, study())
    by_rate = study(by="throughput")
    text = table_text(summary.summarise(tables, by_rate).frame.filter(batch_size=1), select=by_rate.select, width=120)
    assert "through-" in text.splitlines()[0] and "images" not in text.splitlines()[0]
