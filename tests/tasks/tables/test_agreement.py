"""Where images have no labels, every sentence and table speaks of agreement with the original, never of accuracy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl
import pytest

from flows.report.terminal import table_text
from tasks.measure.drops import agreement_drop
from tasks.measure.metrics import wilson
from tasks.records import Data, Select
from tasks.tables import summary
from tests.support import factory
from tests.support.factory import REFERENCE
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from tasks.records import Study

Tables = dict[str, pl.DataFrame]
FAST = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"
OF_ACCURACY = re.compile(r"top-?1|macro F1|accura", re.IGNORECASE)


def study(max_drop: float = 0.02, unlabelled: bool = True, **select: object) -> Study:
    data = Data(path="photos", unlabelled=True) if unlabelled else Data()
    return factory.study().model_copy(update={"data": data, "select": Select(max_drop=max_drop, **select)})


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Tables of a study whose labels are the reference's predictions."""
    parts = factory.tables()
    original = parts["predictions"].filter(variant=REFERENCE, runtime="eager").select("image", original="prediction")
    predictions = parts["predictions"].join(original, on="image").with_columns(label="original").drop("original")
    right = predictions.group_by("variant", "runtime", "device").agg(
        agreement_now=(pl.col("prediction") == pl.col("label")).mean()
    )
    evaluations = parts["evaluations"].join(right, on=["variant", "runtime", "device"], how="left")
    evaluations = evaluations.with_columns(top1=pl.coalesce("agreement_now", "top1")).drop("agreement_now")
    evaluations = evaluations.with_columns(top1_low=pl.lit(0.0), top1_high=pl.lit(1.0))
    return parts | {"predictions": predictions, "evaluations": evaluations}


def test_the_drop_is_the_share_of_images_that_get_another_class_with_wilsons_interval(tables: Tables) -> None:
    result = summary.summarise(tables, study())
    row = next(row for row in result.frame.iter_rows(named=True) if row["variant"] == FAST)
    wrong = round((1 - row["top1"]) * 360)
    assert wrong > 0 and row["drop"] == pytest.approx(wrong / 360)
    assert (row["drop_low"], row["drop_high"]) == pytest.approx(wilson(wrong / 360, 360))
    assert row["drop_low"] > 0, "nothing agrees with the original more than the original"
    assert result.reference["top1"] == 1.0 and result.reference["drop"] == 0.0
    assert result.winner is not None and result.winner["drop"] <= 0.02
    kept = agreement_drop(0, 750)
    assert (kept.value, kept.low, kept.within(0.01)) == (0.0, 0.0, "shown")
    assert agreement_drop(3, 750).images_to_settle(0.005) > 750


def test_every_sentence_says_agreement(tables: Tables) -> None:
    result = summary.summarise(tables, study())
    assert result.cautions[0] == (
        "What counts is agreement with the original on 360 unlabelled images; nothing is known about accuracy."
    )
    for sentence in (*result.cautions[1:], *result.sentences):
        assert not OF_ACCURACY.search(sentence), sentence
    assert " agreement 0.9" in result.sentences[0] and "against 1.000" in result.sentences[0]
    assert any("get another class than from the original: agreement drop " in part for part in result.sentences)
    assert "passes this rule on agreement" in result.sentences[-1]
    for row in result.frame.iter_rows(named=True):
        assert not OF_ACCURACY.search(row["why_not"] or ""), row["why_not"]
    for select in ({"max_drop": 0.0, "size_mb": 0.001}, {"latency_ms": 0.001}):
        without = summary.summarise(tables, study(**select))
        assert without.winner is None
        assert not any(OF_ACCURACY.search(sentence) for sentence in without.sentences), without.sentences


def test_an_original_that_gives_nearly_all_images_one_class_is_said(tables: Tables) -> None:
    one = [350, 10, *[0] * 8]
    datasets = tables["datasets"].with_columns(class_rows=pl.Series([one] * len(tables["datasets"])))
    result = summary.summarise(tables | {"datasets": datasets}, study(max_drop=0.05))
    assert "The original gives 0.972 of these images the class 'digit 0', so that even always naming it" in (
        " ".join(result.cautions)
    )


def test_report_and_terminal_say_agreement(tables: Tables) -> None:
    frame = summary.summarise(tables, study()).frame
    text = table_text(frame.filter(batch_size=1), unlabelled=True, images="the 360 held-out images of photos")
    assert "agree-" in text and "agreement: of the 360 held-out images of photos" in text
    assert not OF_ACCURACY.search(text)
    shown = ("variants", "evaluations", "predictions", "benchmarks", "throughputs", "memory", "datasets")
    page = page_of({name: tables[name] for name in shown} | {"summary": frame}, study())
    words = " ".join(Page(page).words.split())
    assert "of the reference's agreement" in words and "Agreement at every hop" in words
    assert "nothing is known about accuracy" in words and "Mistakes" not in words
    # What follows is about augmentation and pruning, which such a study has not.
    about_forms = " ".join(Page(page[: page.index('<h2 id="augmentation">')] + "</main></body></html>").words.split())
    assert not OF_ACCURACY.search(about_forms.replace("nothing is known about accuracy", ""))
    assert "Validation agreement" in words and "Validation top-1" not in words
    labelled = page_of({name: tables[name] for name in shown} | {"summary": frame}, study(unlabelled=False))
    assert "Top-1" in labelled and "Accuracy at every hop" in labelled
