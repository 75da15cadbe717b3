"""The report: complete in itself, honest about what is missing, readable in a terminal."""

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
    made = factory.tables()
    return made | {"summary": summary.summarise(made, factory.study()).frame}


@pytest.fixture(scope="module")
def text(tables: dict[str, pl.DataFrame]) -> str:
    return page_of(tables, factory.study(), environment={"machine": "here"})


def few(tables: dict[str, pl.DataFrame], *names: str) -> str:
    """A page of some tables; without curves it is drawn quickly."""
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


def test_a_run_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run 'nowhere'"):
        report.render(tmp_path, "nowhere")


def test_the_page_needs_no_network_and_its_inner_links_lead_somewhere(text: str) -> None:
    page = Page(text)
    outside = [a for a in page.addresses if not a.startswith("#")]
    assert set(outside) == {"benchmark_results.csv", "data_docs/index.html"}
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert len(text) < 1_500_000


def test_ids_are_unique_though_charts_are_drawn_apart(text: str) -> None:
    ids = Page(text).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_the_page_names_winner_runner_up_reference_and_the_reason(text: str) -> None:
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
    charts = [found for tag, found in page.tags if tag == "svg"]
    assert len(charts) == 2 + 1 + 8 + 2 + 1
    assert all(found["role"] == "img" and len(str(found["aria-label"])) > 40 for found in charts)
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
    """In half of it, beside a chart, the trials' table was cut."""
    around = Boxes(text).around
    assert len(around) > 8
    assert all(boxes[-1] == "scroll" and "grid" not in boxes for boxes in around), around


def test_skipped_rows_of_one_reason_are_one_line_which_names_them(text: str) -> None:
    assert not re.findall(r'<tr class="skipped">', text)
    lines = re.findall(r"<details class=\"note\"><summary>(.*?)</summary>(.*?)</details>", text, re.DOTALL)
    told = [
        names for line, names in lines if line == "8 rows skipped: no GPU here; the engine was built and not executed"
    ]
    # candidates, and the statistics of latency and of throughput
    assert len(told) == 3
    for names in told:
        assert len(names.split(", ")) == 4 and "lenet5/augment-none/onnx/engine-fp16" in names


def test_a_skipped_row_that_is_alone_stays_in_its_table_with_its_reason(tables: dict[str, pl.DataFrame]) -> None:
    rows = pl.Series(range(tables["summary"].height))
    first = tables["summary"].filter(pl.col("status") == "skipped").height
    alone = tables["summary"].with_columns(
        error=pl.when(pl.col("status") == "skipped").then(pl.concat_str(pl.lit("reason "), rows))
    )
    assert (
        len(
            re.findall(
                r'<tr class="skipped">.*?reason \d+.*?>–<', few(tables | {"summary": alone}, "summary"), re.DOTALL
            )
        )
        == first
    )


def test_a_missing_table_is_said_and_its_section_left_out(tables: dict[str, pl.DataFrame]) -> None:
    words = " ".join(Page(few(tables, "variants", "summary")).words.split())
    assert "Not published: datasets, ablations, epochs, seeds, trials, evaluations" in words
    assert "A table that the winner is found by is missing" in words and "Latency distributions" not in words
    # nothing at all was published: still a page that says so
    assert "Winner not known" in Page(few(tables)).words


def test_tables_without_a_row_give_a_page_all_the_same() -> None:
    empty = {name: frames.frame(name, []) for name in TABLES}
    words = Page(page_of(empty, factory.study())).words
    assert "No winner" in words and "Not published" not in words


def test_a_study_without_a_winner_says_why(tables: dict[str, pl.DataFrame]) -> None:
    bad = tables["benchmarks"].with_columns(conditions=pl.when(pl.col("status") == "ok").then(pl.lit("throttled")))
    changed = tables | {"benchmarks": bad}
    changed["summary"] = summary.summarise(changed, factory.study()).frame
    page = few(changed, *summary.PARTS, "summary")
    words = Page(page).words
    assert "No winner" in words and "measured under bad conditions" in words
    assert "No winner yet. Provisional best, not confirmed" in words and "--again benchmark" in words
    (card,) = re.findall(r'<article class="card provisional">.*?</article>', page, re.DOTALL)
    assert WINNER in card and "0.865 ms" in card
    assert re.findall(r'<tr class="provisional ok">.*?</tr>', page, re.DOTALL)
    assert csv_view.MARKED in Page(page).addresses
    terminal = table_text(changed["summary"])
    first = next(line for line in terminal.splitlines() if "? resnet34" in line)
    assert "0.865" in first and "? provisional best, not confirmed" in terminal and "★" not in terminal


def test_what_a_data_set_or_an_error_says_is_never_markup(tables: dict[str, pl.DataFrame]) -> None:
    evil = "<script>alert(1)</script>"
    frame = tables["summary"].with_columns(error=pl.when(pl.col("status") != "ok").then(pl.lit(evil)))
    made = few(tables | {"summary": frame}, "summary")
    assert evil not in made and "&lt;script&gt;alert(1)" in made


def test_the_terminal_table_fits_120_columns_and_is_plain_elsewhere(tables: dict[str, pl.DataFrame]) -> None:
    made = table_text(tables["summary"])
    lines = made.splitlines()
    assert max(map(len, lines)) <= 120 and "\x1b" not in made
    first = next(line for line in lines if "★" in line)
    assert "resnet34-w16/prune-0.25/onnx/" in first and "0.865" in first and "onnxruntime" in first
    assert "8 rows skipped: no GPU here" in made and "and 1 more" in made
    assert sum("tensorrt" in line for line in lines) == 0, "they are that line alone"
    assert "\x1b[" in table_text(tables["summary"], terminal=True)


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_has_a_row_below_another(tables: dict[str, pl.DataFrame], width: int) -> None:
    made = table_text(tables["summary"], width=width).splitlines()
    assert max(map(len, made)) <= width
    assert "median ms" in " ".join(" ".join(made).split()) and "…" not in "".join(made)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_table_keeps_every_letter_of_a_long_name(tables: dict[str, pl.DataFrame], width: int) -> None:
    name = "resnet34-w16/" + "/".join(["a-rather-long-stage-name"] * 4)
    long = {"variant": pl.lit(name), "runtime": pl.lit("openvino_bf16")}
    made = table_text(tables["summary"].head(1).with_columns(**long), width=width)
    assert max(map(len, made.splitlines())) <= width
    body = made[made.index("resnet34") :].split("\n\n")[0].splitlines()
    parts = [line.split()[0] for line in body]
    assert name in "".join(parts)
    assert min(map(len, parts[:-1])) > 10, "no line of a letter or two"


def test_printing_to_a_file_gives_the_plain_table(
    tables: dict[str, pl.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(tables["summary"])
    assert capsys.readouterr().out == table_text(tables["summary"])


def test_on_a_narrow_page_numbers_come_before_names_and_links(text: str) -> None:
    """Where a row was measured stands below its name there, so that no column of words is before the figures."""
    narrow = text[text.index("@media (max-width: 640px)") : text.index("@media print")]
    assert ".place { display: none; }" in narrow and ".card dl { order: -1;" in narrow
    table = text[text.index("Every candidate") : text.index('<h2 id="tradeoff">')]
    heads = re.findall(r'<th scope="col" class="([^"]*)"><button type="button">([^<]*)', table)
    assert [name for kind, name in heads if "place" not in kind][:2] == ["Variant", "Median"]
    assert [name for kind, name in heads if "place" in kind] == ["Runtime", "Device", "Batch"]
    first = re.findall(r"<tr class.*?</tr>", table, re.DOTALL)[0]
    assert '<small class="where">onnxruntime, cpu, batch 1</small>' in first and first.count('class="n place"') == 1
    contents = [found.start() for found in re.finditer("<nav ", text)]
    assert len(contents) == 2 and contents[0] < text.index('<section class="cards"') < contents[1]
    assert (
        'class="wide"' in text[contents[0] : contents[0] + 40]
        and 'class="narrow"' in text[contents[1] : contents[1] + 40]
    )


def test_scores_on_validation_images_say_how_many_these_are(tables: dict[str, pl.DataFrame]) -> None:
    words = " ".join(Page(few(tables, "variants", "evaluations", "datasets", "trials")).words.split())
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
