"""Report and terminal say of every candidate how sure its drop is, why it lost, and what each hop costs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.report.terminal import table_text
from tasks.records import Select
from tasks.tables import summary
from tests.support import factory
from tests.support.factory import REFERENCE
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from tasks.records import Study

Tables = dict[str, pl.DataFrame]
SHOWN = ("variants", "evaluations", "predictions", "benchmarks", "throughputs", "memory", "summary")
NEW = ("drop_low", "drop_high", "drop_images", "within", "images_to_settle", "why_not")
"""Columns of the summary that older versions of burnish did not write."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    parts = factory.tables()
    quantized = pl.col("variant").str.contains("int8")
    differences = pl.when(pl.col("parent").is_not_null()).then(pl.when(quantized).then(0.043).otherwise(2.1e-6))
    parts["evaluations"] = parts["evaluations"].with_columns(logit_difference=differences)
    return parts | {"summary": summary.summarise(parts, factory.study()).frame}


def page_text(tables: Tables, study: Study) -> str:
    return page_of({name: tables[name] for name in SHOWN if name in tables}, study)


def section(page: str, heading: str) -> str:
    """Return the part of a page from the heading of this id to the next heading."""
    start = page.index(f'<h2 id="{heading}">')
    return page[start : page.index("<h2", start + 1)]


def rows_of(html: str) -> list[list[str]]:
    """Return the texts of the cells of each row of a table. What a narrow page shows below a name is left out."""
    rows = re.findall(r"<tr class.*?</tr>", re.sub(r'<small class="where">.*?</small>', "", html), re.DOTALL)
    return [[" ".join(Page(cell).words.split()) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]


def test_the_report_says_of_every_candidate_why_it_lost_and_whether_it_is_on_the_front(tables: Tables) -> None:
    others = section(page_text(tables, factory.study()), "others")
    compared = tables["summary"].filter(pl.col("batch_size") == 1, pl.col("status") == "ok")
    rows = rows_of(others)
    assert len(rows) == compared.height
    assert rows[0][3] == "–" and all(len(row[3]) > 20 for row in rows[1:])
    fronts = [row[4] for row in rows]
    assert fronts.count("yes") == compared["pareto"].sum() and 1 < fronts.count("yes") < len(rows)
    (lossy,) = [row for row in rows if row[0] == "lenet5/augment-none/onnx"]
    assert "drop 1.1 points, 95 % between 0.0 and 2.8, from 360 images; about 31 000 would settle it" in lossy[3]
    assert lossy[6] == "1.10.0 to 2.8"
    assert "4 rows skipped" in others


def test_the_report_compares_each_candidate_with_the_one_it_was_made_from(tables: Tables) -> None:
    rows = rows_of(section(page_text(tables, factory.study()), "hops"))
    names = [row[0] for row in rows]
    assert names.index(REFERENCE) < names.index(f"{REFERENCE}/onnx") < names.index(f"{REFERENCE}/onnx/int8-dynamic")
    original, quantized = rows[names.index(REFERENCE)], rows[names.index(f"{REFERENCE}/onnx/int8-dynamic")]
    assert original[3:] == ["–", "–", "–", "0.989", "–", "–"]
    assert quantized[3:] == [
        f"{REFERENCE}/onnx on onnxruntime, cpu",
        "0.9970",
        "0.043",
        "0.969",
        "1.90.9 to 4.0",
        "more than half",
    ]
    assert [row[-1] for row in rows].count("more than half") == 4, "the dynamic forms"


def test_a_run_of_an_older_version_has_a_report_and_a_table_in_the_terminal(tables: Tables) -> None:
    old = {
        **tables,
        "summary": tables["summary"].drop(NEW),
        "evaluations": tables["evaluations"].drop("logit_difference"),
    }
    page = page_text(old, factory.study())
    assert '<h2 id="others">' not in page
    candidates = section(page, "candidates")
    assert "Rule kept" not in candidates and "Drop" in candidates
    # The hops are found anew, from the tables that the older version did write.
    hops = section(page, "hops")
    assert "Largest difference" not in hops and "more than half" in hops
    text = table_text(old["summary"])
    winner = next(line for line in text.splitlines() if "★" in line)
    assert "0.981    0.8 " in winner and "✓" not in text


def test_the_terminal_marks_how_sure_a_drop_is(tables: Tables) -> None:
    copies = [tables["predictions"].with_columns(image=pl.col("image") + 360 * copy) for copy in range(4)]
    many = {**tables, "predictions": pl.concat(copies)}
    frame = summary.summarise(many, factory.study()).frame
    for width in (80, 120):
        lines = table_text(frame.filter(batch_size=1), width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert any(re.search(r" 0\.0 ✓ .*2\.44 ok", line) for line in lines), "the exported reference"
        assert any(re.search(r" 0\.6 ~ .*3\.12 ok", line) for line in lines)
        assert any(re.search(r" 1\.1 +([\d.]+ +)?12\.6 ok", line) for line in lines)
        assert "within the allowed 1 point: ✓ shown (95 %), ~ likely (80 %)" in " ".join(" ".join(lines).split())
    narrow = " ".join(table_text(frame.filter(batch_size=1), width=60).split())
    assert re.search(r"top-1 0\.983, drop points 0\.6 \(95 % 0\.\d to 1\.\d\) likely, speedup 3\.12", narrow)


def test_the_terminal_shows_the_metric_that_the_study_selects_by(tables: Tables) -> None:
    heads = table_text(tables["summary"], select=Select(metric="macro_f1"), width=80).splitlines()[:2]
    assert "macro" in heads[0] and "top-1" not in " ".join(heads)
    assert "top-1" in table_text(tables["summary"], width=80).splitlines()[1]
