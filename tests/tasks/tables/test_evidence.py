"""A study says what its images can and cannot prove about the allowed drop, and which trainings did not settle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.terminal.conclusion import conclusion
from tasks.caching.work import Work
from tasks.measure import metrics
from tasks.measure.handful import handful
from tasks.records import Model, Select, Train
from tasks.tables import csv_view, figures, frames, summary
from tasks.training import settled
from tests.support import factory
from tests.support.reports import page_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tasks.records import Prepared

Tables = dict[str, pl.DataFrame]
FAST = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"
REFERENCE = "resnet34-w16/augment-none"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return factory.tables()


# The interval of a drop.


def test_where_no_image_differs_the_interval_is_wilsons_for_no_success() -> None:
    for images in (1, 5, 34, 360, 50_000):
        low, high = metrics.paired_drop(0, 0, images)
        assert high == pytest.approx(metrics.wilson(0.0, images)[1])
        assert low == -high and high == pytest.approx(metrics.smallest_drop(images))


def test_the_interval_of_few_images_covers_the_true_drop_as_often_as_it_promises() -> None:
    dice = np.random.default_rng(0)
    for images, lost, mended in ((20, 0.1, 0.1), (50, 0.05, 0.02), (360, 0.014, 0.006), (1000, 0.005, 0.005)):
        samples = dice.multinomial(images, [lost, mended, 1 - lost - mended], 1500)
        intervals = [metrics.paired_drop(a, b, images) for a, b, _ in samples]
        coverage = np.mean([low <= lost - mended <= high for low, high in intervals])
        assert 0.93 <= coverage <= 0.995, (images, coverage)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_the_interval_holds_the_observed_drop_and_is_mirrored_when_models_swap(case: tuple[int, int, int]) -> None:
    images, lost, mended = case
    if lost + mended > images:
        lost, mended = images - lost, images - mended
        if lost + mended > images:
            return
    low, high = metrics.paired_drop(lost, mended, images)
    assert -1 <= low <= (lost - mended) / images + 1e-9 and (lost - mended) / images - 1e-9 <= high <= 1
    assert metrics.paired_drop(mended, lost, images) == pytest.approx((-high, -low))


def test_images_needed_is_the_smallest_number_of_images_that_resolves_a_drop() -> None:
    for drop in (0.5, 0.1, 0.01, 0.001):
        needed = metrics.images_needed(drop)
        assert metrics.smallest_drop(needed) <= drop < metrics.smallest_drop(needed - 1) or needed == 1
    assert metrics.images_needed(0.01) == 381
    assert metrics.images_needed(0.01, 0.04) > 1500, "images that differ both ways hide a drop"
    assert metrics.smallest_drop(metrics.FEW) < 0.1 < metrics.smallest_drop(metrics.FEW - 1)


# Figures and cautions that the summary gives with the winner.


def with_test_images(tables: Tables, images: int) -> Tables:
    """Return the tables of the study had it only the first `images` test images."""
    predictions = tables["predictions"].filter(pl.col("image") < images)
    scores = predictions.group_by("variant", "runtime", "device").agg(
        top1=(pl.col("label") == pl.col("prediction")).mean()
    )
    evaluations = tables["evaluations"].drop("top1").join(scores, on=["variant", "runtime", "device"], how="inner")
    rows = [row | {"images": images} for row in evaluations.to_dicts()]
    datasets = [
        row | {"rows": images, "class_rows": [sum(i % 10 == c for i in range(images)) for c in range(10)]}
        if row["split"] == "test"
        else row
        for row in tables["datasets"].to_dicts()
    ]
    return tables | {
        "predictions": predictions,
        "evaluations": frames.frame("evaluations", rows),
        "datasets": frames.frame("datasets", datasets),
    }


def with_scores(tables: Tables, variant: str, top1: float) -> Tables:
    rows = [row | ({"top1": top1} if row["variant"] == variant else {}) for row in tables["evaluations"].to_dicts()]
    return tables | {"evaluations": frames.frame("evaluations", rows)}


def test_the_summary_gives_the_interval_of_the_winners_drop_and_the_images_needed(tables: Tables) -> None:
    result = summary.summarise(tables, factory.study())
    assert result.cautions == ()
    (sentence,) = [part for part in result.sentences if part.startswith("Of 360 test images")]
    assert sentence == (
        "Of 360 test images, 3 turned from right to wrong and 0 from wrong to right: top-1 drop 0.8 points, 95 % "
        "between −0.2 and 2.4, from 360 images; about 14\u202f000 would settle it. So they do not show that the "
        "allowed drop of 1 point is kept."
    )
    generous_study = factory.study().model_copy(update={"select": Select(max_drop=0.05)})
    assert "So they show that the allowed drop of 5 points is kept." in summary.summarise(tables, generous_study).reason
    close_study = factory.study().model_copy(update={"select": Select(max_drop=0.03)})
    likely = "So it is likely (80 % confidence), but not shown (95 %), that the allowed drop of 3 points is kept."
    assert likely in summary.summarise(tables, close_study).reason


def test_the_summary_warns_before_the_winner_that_five_images_cannot_judge_a_drop(tables: Tables) -> None:
    result = summary.summarise(with_test_images(tables, 5), factory.study())
    assert result.winner is not None
    (caution,) = [part for part in result.cautions if "test images cannot judge" in part]
    assert caution == (
        "5 test images cannot judge a drop of 1 point: the smallest that they can resolve is 43.4 points (95 % "
        "confidence); at least "
        "381 would be needed."
    )
    assert result.reason.startswith(result.cautions[0]) and result.reason.index(caution) < result.reason.index(
        " median"
    )
    strict_study = factory.study().model_copy(update={"select": Select(max_drop=0.0)})
    assert (
        "no number of images resolves a drop of 0."
        in summary.summarise(with_test_images(tables, 5), strict_study).reason
    )


def test_the_summary_warns_of_few_test_images_also_without_predictions(tables: Tables) -> None:
    without_predictions = {name: tables[name] for name in summary.PARTS}
    caution = "360 test images cannot judge a drop of 1 point"
    assert caution in summary.summarise(without_predictions, factory.study()).reason
    # A table of predictions in which rows are repeated is unfit, and is not counted.
    with_repeated_predictions = tables | {"predictions": pl.concat([tables["predictions"]] * 2)}
    assert caution in summary.summarise(with_repeated_predictions, factory.study()).reason


@pytest.mark.parametrize(
    ("score", "caution"),
    [
        (0.08, "of 0.080 is no better than always naming the commonest class"),
        (0.12, "of 0.120 (95 % interval 0.090 to 0.158, 360 images) is not shown to be better than always naming"),
        (0.5, None),
    ],
)
def test_the_summary_warns_of_a_reference_that_is_no_better_than_naming_one_class(
    tables: Tables, score: float, caution: str | None
) -> None:
    weak_tables = tables
    for variant in set(tables["evaluations"]["variant"]):
        weak_tables = with_scores(weak_tables, variant, score)
    result = summary.summarise(weak_tables, factory.study())
    if caution is None:
        assert not result.cautions
        return
    assert caution in result.cautions[0] and "so no drop proves anything" in result.cautions[0]
    assert "'digit 2'" in result.cautions[0], "the commonest class of the test images"


def test_the_summary_warns_of_an_allowed_drop_that_lets_chance_pass(tables: Tables) -> None:
    study = factory.study().model_copy(update={"select": Select(max_drop=0.9)})
    (caution,) = summary.summarise(tables, study).cautions
    assert caution.startswith("The allowed drop of 90 points lets even always naming the commonest class")


def test_summary_and_report_warn_of_a_handful_of_validation_images(tables: Tables) -> None:
    datasets = [row | ({"rows": 2} if row["split"] == "validation" else {}) for row in tables["datasets"].to_dicts()]
    few_images = tables | {"datasets": frames.frame("datasets", datasets)}
    result = summary.summarise(few_images, factory.study())
    assert result.cautions == (f"{handful(2)}.",) and result.cautions[0].startswith("2 validation images cannot tell")
    html = page_of(few_images | {"summary": result.frame}, factory.study())
    assert html.index("Caution:") < html.index('<h2 id="candidates">')
    training = html[html.index('<h2 id="training">') : html.index('<h2 id="tuning">')]
    assert "2 validation images cannot tell" in training and "of 2 images" in training
    assert handful(metrics.FEW) == ""


def test_the_terminal_shows_cautions_before_the_winner_and_wraps_lines_at_its_width(
    tables: Tables, tmp_path: Path
) -> None:
    result = summary.summarise(with_test_images(tables, 5), factory.study())
    (tmp_path / "result.json").write_text(
        json.dumps(
            {
                "winner": figures.words(result.winner or {}),
                "reason": result.reason,
                "cautions": result.cautions,
                "sentences": result.sentences,
            }
        )
    )
    lines = conclusion(tmp_path).splitlines()
    expected_lines = [
        *(f"caution: {caution}" for caution in result.cautions),
        f"winner: {result.sentences[0]}",
        *result.sentences[1:],
    ]
    assert lines[:-1] == expected_lines and len(result.cautions) == 1 and lines[-1].startswith("report: ")
    narrow_text = conclusion(tmp_path, 80, colour=True)
    assert all(len(line) <= 80 + 11 for line in narrow_text.splitlines()[:-1]) and "\x1b[1;33mcaution" in narrow_text
    (tmp_path / csv_view.MARKED).touch()
    assert f"{csv_view.MARKED} has them" in conclusion(tmp_path)


# BatchNorm's running statistics.


def epochs(train: float, validation: float) -> list[dict[str, Any]]:
    return [{"split": "train", "top1": train}, {"split": "validation", "top1": validation}]


def trained(work: Work, data: Prepared, momentum: float, steps: int) -> torch.nn.Module:
    """Train a small model on digits. Its features are far from 0, the mean that BatchNorm's statistics begin with."""
    import torch

    from tasks.datasets._arrays import load_arrays
    from tasks.training.policies import Normaliser

    arrays = load_arrays(work.store, data)
    rows = arrays.rows_of("train")
    x = Normaliser(data, "cpu")(torch.from_numpy(arrays.images[rows]))
    y = torch.from_numpy(arrays.labels[rows])
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    ).train()
    nn.init.constant_(model[0].bias, 30.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("momentum", "steps", "top1", "note"),
    [
        # Both scores are bad, because the statistics are not settled.
        (0.01, 20, (0.3, 0.25), "after 20 training steps, 82% of them is still their initial value"),
        # The validation score is behind for another reason than the statistics.
        (0.1, 40, (0.9, 0.3), None),
    ],
)
def test_batchnorm_statistics_are_noted_only_where_settled_ones_make_a_model_better(
    tmp_path: Path, momentum: float, steps: int, top1: tuple[float, float], note: str | None
) -> None:
    from tests.support.digits import digits

    work = Work.at(tmp_path)
    data = digits(work)
    model = trained(work, data, momentum, steps)
    reported = settled.note(model, model.state_dict(), epochs(*top1), data, work.store)
    assert (note in reported) if reported and note else reported is note
    if note:
        settled_model = settled.estimated_anew(model, data, work.store)
        assert settled.note(settled_model, settled_model.state_dict(), epochs(*top1), data, work.store) is None
        assert settled.initial_share(settled_model[0]) is None, "a convolution has no statistics"


@pytest.mark.slow
def test_the_summary_warns_of_a_reference_whose_batchnorm_has_not_settled(tmp_path: Path, tables: Tables) -> None:
    """With two steps per epoch and a momentum of 0.1, BatchNorm evaluates with most of its initial statistics."""
    from tasks.train import train
    from tests.support.digits import digits

    work = Work.at(tmp_path)
    data = digits(work, 240)
    settings = Train(epochs=6, patience=6, batch_size=72, learning_rate=0.1)
    training = train(work, Model(name="resnet34", width=8), data, settings, final=True)
    (row,) = pl.read_parquet(work.store.get(training.tables["variants"])).to_dicts()
    assert row["note"].startswith("BatchNorm's running statistics have not settled: in the weights that go on, after")
    variant_rows = [
        variant_row
        | (
            {"note": row["note"], "sha256": row["sha256"]}
            if variant_row["name"] == f"{REFERENCE.partition('/')[0]}/tune"
            else {}
        )
        | ({"sha256": row["sha256"]} if variant_row["name"] == REFERENCE else {})
        for variant_row in tables["variants"].to_dicts()
    ]
    weak_tables = tables | {"variants": frames.frame("variants", variant_rows)}
    for variant in set(tables["evaluations"]["variant"]):
        weak_tables = with_scores(weak_tables, variant, 0.1 if variant.startswith("resnet") else 0.05)
    result = summary.summarise(weak_tables, factory.study())
    assert result.reference is not None and result.reference["variant"] == REFERENCE
    assert "no better than always naming" in result.cautions[0]
    assert result.cautions[1] == row["note"], "the note belongs to the same weights under the name of another stage"
