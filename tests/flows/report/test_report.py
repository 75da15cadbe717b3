"""The report needs nothing but its one file, says what is missing, and has a table that is readable in a terminal."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.report import page as report
from flows.report.columns import SUMMARY
from flows.report.terminal import print_table, table_text
from tasks import tables as contract
from tasks.tables import csv_view, frames, summary
from tasks.tables.schema import TABLES
from tests.support import factory
from tests.support.factory import changed
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from pathlib import Path

WINNER = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    parts = factory.tables()
    return parts | {"summary": summary.summarise(parts, factory.study()).frame}


@pytest.fixture(scope="module")
def text(tables: dict[str, pl.DataFrame]) -> str:
    return page_of(tables, factory.study(), environment={"machine": "here"})


def page_of_few(tables: dict[str, pl.DataFrame], *names: str) -> str:
    """Return the page of these tables alone, which is drawn quickly when it has no curves."""
    return page_of({name: tables[name] for name in names}, factory.study())


def test_a_published_run_is_rendered_from_its_files_alone(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    paths = {}
    for name in ("variants", "evaluations", "benchmarks", "memory", "summary", "latencies"):
        paths[name] = tmp_path / f"{name}.parquet"
        tables[name].write_parquet(paths[name])
    contract.publish(paths, tmp_path, "run-1")
    folder = tmp_path / "runs" / "run-1"
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text('name = "from-toml"\nmodels = [{ name = "lenet5" }]\n')
    (folder / "environment.json").write_text(json.dumps({"cpu": "Known CPU"}))
    path = report.render(tmp_path, "run-1")
    assert path == folder / "report.html"
    words = Page(path.read_text()).words
    assert "from-toml" in words and WINNER in words and "Known CPU" in words


def test_a_report_of_an_unknown_run_is_refused_with_the_runs_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run 'nowhere'"):
        report.render(tmp_path, "nowhere")


def test_the_page_needs_no_network_and_its_inner_links_have_targets(text: str) -> None:
    page = Page(text)
    outside = [a for a in page.addresses if not a.startswith("#")]
    assert set(outside) == {"benchmark_results.csv", "data_docs/index.html"}
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert len(text) < 1_500_000


def test_ids_are_unique_although_each_chart_is_drawn_by_itself(text: str) -> None:
    ids = Page(text).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_the_page_gives_the_reason_for_the_winner_and_has_every_section(text: str) -> None:
    words = " ".join(Page(text).words.split())
    assert summary.summarise(factory.tables(), factory.study()).reason in words
    for heading in (
        "Candidates",
        "Accuracy against latency",
        "Latency distributions",
        "Training",
        "Tuning",
        "Augmentation",
        "Pruning",
        "Quantization",
        "Data",
        "How it was measured",
        "Machine",
    ):
        assert heading in words


def test_every_chart_has_a_title_a_text_alternative_and_axes_with_units(text: str) -> None:
    page = Page(text)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 2 + 1 + 8 + 2 + 1
    assert all(attributes["role"] == "img" and len(str(attributes["aria-label"])) > 40 for attributes in charts)
    for title in ("median latency, ms per query", "macro F1, share", "cross-entropy loss", "latency, ms per query"):
        assert title in page.words


class Boxes(HTMLParser):
    """Classes of the <div> elements around each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.around: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "div":
            self.open.append(dict(attrs).get("class") or "")
        elif tag == "table":
            self.around.append(list(self.open))

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self.open.pop()


def test_every_table_scrolls_and_has_the_whole_width(text: str) -> None:
    """The table of trials was cut off when it had half of the width, beside a chart."""
    around = Boxes(text).around
    assert len(around) > 8
    assert all(boxes[-1] == "scroll" and "grid" not in boxes for boxes in around), around


def test_rows_skipped_for_one_reason_are_one_line_that_names_them(text: str) -> None:
    assert not re.findall(r'<tr class="skipped">', text)
    lines = re.findall(r"<details class=\"note\"><summary>(.*?)</summary>(.*?)</details>", text, re.DOTALL)
    skipped = [
        names for line, names in lines if line == "8 rows skipped: no GPU here; the engine was built and not executed"
    ]
    # One line each for the candidates, the statistics of latency and those of throughput.
    assert len(skipped) == 3
    for names in skipped:
        assert len(names.split(", ")) == 4 and "lenet5/augment-none/onnx/engine-fp16" in names


def test_a_row_skipped_for_a_reason_of_its_own_stays_in_its_table_with_the_reason(
    tables: dict[str, pl.DataFrame],
) -> None:
    rows = pl.Series(range(tables["summary"].height))
    count = tables["summary"].filter(pl.col("status") == "skipped").height
    own_reasons = tables["summary"].with_columns(
        error=pl.when(pl.col("status") == "skipped").then(pl.concat_str(pl.lit("reason "), rows))
    )
    assert (
        len(
            re.findall(
                r'<tr class="skipped">.*?reason \d+.*?>–<',
                page_of_few(tables | {"summary": own_reasons}, "summary"),
                re.DOTALL,
            )
        )
        == count
    )


def test_a_missing_table_is_named_and_its_section_is_left_out(tables: dict[str, pl.DataFrame]) -> None:
    words = " ".join(Page(page_of_few(tables, "variants", "summary")).words.split())
    assert "Not published: datasets, ablations, epochs, seeds, trials, evaluations" in words
    assert "A table that the winner is found by is missing" in words and "Latency distributions" not in words
    # Even a run that published no table has a page, which says so.
    assert "Winner not known" in Page(page_of_few(tables)).words


def test_tables_without_rows_give_a_page_without_a_winner() -> None:
    empty = {name: frames.frame(name, []) for name in TABLES}
    words = Page(page_of(empty, factory.study())).words
    assert "No winner" in words and "Not published" not in words


def test_a_report_without_a_winner_says_why_and_shows_the_provisional_best(tables: dict[str, pl.DataFrame]) -> None:
    bad = tables["benchmarks"].with_columns(conditions=pl.when(pl.col("status") == "ok").then(pl.lit("throttled")))
    changed = tables | {"benchmarks": bad}
    changed["summary"] = summary.summarise(changed, factory.study()).frame
    page = page_of_few(changed, *summary.PARTS, "summary")
    words = Page(page).words
    assert "No winner" in words and "measured under bad conditions" in words
    assert "No winner yet. Provisional best, not confirmed" in words and "--again benchmark" in words
    (card,) = re.findall(r'<article class="card provisional">.*?</article>', page, re.DOTALL)
    assert WINNER in card and "0.865 ms" in card
    assert re.findall(r'<tr class="provisional ok">.*?</tr>', page, re.DOTALL)
    assert csv_view.MARKED in Page(page).addresses
    terminal = table_text(changed["summary"])
    best = next(line for line in terminal.splitlines() if "? resnet34" in line)
    assert "0.865" in best and "? provisional best, not confirmed" in terminal and "★" not in terminal


def test_the_text_of_an_error_is_never_markup(tables: dict[str, pl.DataFrame]) -> None:
    evil = "<script>alert(1)</script>"
    frame = tables["summary"].with_columns(error=pl.when(pl.col("status") != "ok").then(pl.lit(evil)))
    page = page_of_few(tables | {"summary": frame}, "summary")
    assert evil not in page and "&lt;script&gt;alert(1)" in page


def test_the_table_as_text_fits_120_columns_and_is_coloured_only_in_a_terminal(tables: dict[str, pl.DataFrame]) -> None:
    printed = table_text(tables["summary"])
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 120 and "\x1b" not in printed
    winner = next(line for line in lines if "★" in line)
    assert "resnet34-w16/prune-0.25/onnx/" in winner and "0.865" in winner and "onnxruntime" in winner
    assert "8 rows skipped: no GPU here" in printed and "and 1 more" in printed
    assert sum("tensorrt" in line for line in lines) == 0, "engines appear only in the line of skipped rows"
    assert "\x1b[" in table_text(tables["summary"], terminal=True)


@pytest.mark.parametrize("width", [20, 40, 60])
def test_in_a_narrow_terminal_each_row_is_a_block_of_lines(tables: dict[str, pl.DataFrame], width: int) -> None:
    lines = table_text(tables["summary"], width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert "median ms" in " ".join(" ".join(lines).split()) and "…" not in "".join(lines)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_table_keeps_every_letter_of_a_long_name(tables: dict[str, pl.DataFrame], width: int) -> None:
    name = "resnet34-w16/" + "/".join(["a-rather-long-stage-name"] * 4)
    long = {"variant": pl.lit(name), "runtime": pl.lit("openvino_bf16")}
    printed = table_text(tables["summary"].head(1).with_columns(**long), width=width)
    assert max(map(len, printed.splitlines())) <= width
    body = printed[printed.index("resnet34") :].split("\n\n")[0].splitlines()
    parts = [line.split()[0] for line in body]
    assert name in "".join(parts)
    assert min(map(len, parts[:-1])) > 10, "no line has only a letter or two of the name"


def test_printing_to_a_file_gives_the_plain_table(
    tables: dict[str, pl.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(tables["summary"])
    assert capsys.readouterr().out == table_text(tables["summary"])


def test_on_a_narrow_page_figures_come_before_the_other_columns_and_the_contents(text: str) -> None:
    """Runtime, device and batch stand below a row's name, so that no column of words comes before the figures."""
    narrow = text[text.index("@media (max-width: 640px)") : text.index("@media print")]
    assert ".place { display: none; }" in narrow and ".card dl { order: -1;" in narrow
    table = text[text.index("Every candidate") : text.index('<h2 id="tradeoff">')]
    heads = re.findall(r'<th scope="col" class="([^"]*)"><button type="button">([^<]*)', table)
    assert [name for kind, name in heads if "place" not in kind][:2] == ["Variant", "Median"]
    assert [name for kind, name in heads if "place" in kind] == ["Runtime", "Device", "Batch"]
    first = re.findall(r"<tr class.*?</tr>", table, re.DOTALL)[0]
    assert '<small class="where">onnxruntime, cpu, batch 1</small>' in first and first.count('class="n place"') == 1
    contents = [match.start() for match in re.finditer("<nav ", text)]
    assert len(contents) == 2 and contents[0] < text.index('<section class="cards"') < contents[1]
    assert (
        'class="wide"' in text[contents[0] : contents[0] + 40]
        and 'class="narrow"' in text[contents[1] : contents[1] + 40]
    )


def test_validation_scores_say_on_how_many_images_they_were_measured(tables: dict[str, pl.DataFrame]) -> None:
    words = " ".join(Page(page_of_few(tables, "variants", "evaluations", "datasets", "trials")).words.split())
    images = tables["datasets"].filter(split="validation")["rows"][0]
    assert f"Validation macro F1share of {images} images" in words and f"Scoremacro F1 of {images} images" in words


def test_a_marked_reference_is_said_on_its_card_and_beside_the_speed_ups() -> None:
    tables = dict(changed(factory.tables(), "benchmarks", {"variant": factory.REFERENCE}, conditions="throttled"))
    tables["summary"] = summary.summarise(tables, factory.study()).frame
    words = " ".join(Page(page_of(tables, factory.study())).words.split())
    assert "Marked: measured under bad conditions (throttled), so speed-ups over it are doubtful." in words
    assert "times as fast as the marked reference" in words
    lines = " ".join(table_text(tables["summary"], width=400).split())
    assert (
        f"marked: measured under bad conditions (the report says which), and cannot win ({factory.REFERENCE} in "
        in (lines)
    )


def test_the_status_stands_beside_the_figures_that_it_is_about() -> None:
    names = [name for name, *_ in SUMMARY]
    assert names.index("Status") == names.index("Speed-up") + 1
