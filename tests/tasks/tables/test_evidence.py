"""What a study's images can show of its accuracy rule: exact cases, simulated ones, and a training that did not
settle."""

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


# ------------------------------------------------------------------------------------------------------ the interval


def test_without_a_differing_image_the_interval_is_wilsons_of_no_success() -> None:
    for images in (1, 5, 34, 360, 50_000):
        low, high = metrics.paired_drop(0, 0, images)
        assert high == pytest.approx(metrics.wilson(0.0, images)[1])
        assert low == -high and high == pytest.approx(metrics.smallest_drop(images))


def test_of_few_images_it_covers_the_true_drop_at_least_about_as_often_as_it_says() -> None:
    dice = np.random.default_rng(0)
    for images, lost, mended in ((20, 0.1, 0.1), (50, 0.05, 0.02), (360, 0.014, 0.006), (1000, 0.005, 0.005)):
        drawn = dice.multinomial(images, [lost, mended, 1 - lost - mended], 1500)
        ends = [metrics.paired_drop(a, b, images) for a, b, _ in drawn]
        held = np.mean([low <= lost - mended <= high for low, high in ends])
        assert 0.93 <= held <= 0.995, (images, held)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_it_holds_the_observed_drop_and_is_mirrored_when_the_two_change_places(case: tuple[int, int, int]) -> None:
    images, lost, mended = case
    if lost + mended > images:
        lost, mended = images - lost, images - mended
        if lost + mended > images:
            return
    low, high = metrics.paired_drop(lost, mended, images)
    assert -1 <= low <= (lost - mended) / images + 1e-9 and (lost - mended) / images - 1e-9 <= high <= 1
    assert metrics.paired_drop(mended, lost, images) == pytest.approx((-high, -low))


def test_so_many_images_as_are_needed_are_enough_and_one_less_is_not() -> None:
    for drop in (0.5, 0.1, 0.01, 0.001):
        needed = metrics.images_needed(drop)
        assert metrics.smallest_drop(needed) <= drop < metrics.smallest_drop(needed - 1) or needed == 1
    assert metrics.images_needed(0.01) == 381
    assert metrics.images_needed(0.01, 0.04) > 1500, "images that differ both ways hide a drop"
    assert metrics.smallest_drop(metrics.FEW) < 0.1 < metrics.smallest_drop(metrics.FEW - 1)


# ---------------------------------------------------------------------------------------------- what a winner comes
# with


def cut(tables: Tables, images: int) -> Tables:
    """The study with its first `images` test images alone."""
    predictions = tables["predictions"].filter(pl.col("image") < images)
    scores = predictions.group_by("variant", "runtime", "device").agg(
        top1=(pl.col("label") == pl.col("prediction")).mean()
    )
    evaluations = tables["evaluations"].drop("top1").join(scores, on=["variant", "runtime", "device"], how="inner")
    rows = [row | {"images": images} for row in evaluations.to_dicts()]
    sets = [
        row | {"rows": images, "class_rows": [sum(i % 10 == c for i in range(images)) for c in range(10)]}
        if row["split"] == "test"
        else row
        for row in tables["datasets"].to_dicts()
    ]
    return tables | {
        "predictions": predictions,
        "evaluations": frames.frame("evaluations", rows),
        "datasets": frames.frame("datasets", sets),
    }


def with_scores(tables: Tables, variant: str, top1: float) -> Tables:
    rows = [row | ({"top1": top1} if row["variant"] == variant else {}) for row in tables["evaluations"].to_dicts()]
    return tables | {"evaluations": frames.frame("evaluations", rows)}


def test_the_winner_comes_with_the_interval_of_its_drop_and_the_images_that_would_settle_it(tables: Tables) -> None:
    found = summary.summarise(tables, factory.study())
    assert found.cautions == ()
    (told,) = [part for part in found.sentences if part.startswith("Of 360 test images")]
    assert "3 turned from right to wrong and 0 from wrong to right: a drop in top-1 of 0.008" in told
    assert "between -0.002 and 0.024" in told and "do not show that the allowed drop of 0.01 is kept" in told
    assert "can resolve is 0.016; about 570 would be needed" in told
    wide = factory.study().model_copy(update={"select": Select(max_drop=0.05)})
    assert "So they show that the allowed drop of 0.05 is kept." in summary.summarise(tables, wide).reason


def test_five_test_images_cannot_judge_the_drop_and_this_is_said_before_the_winner(tables: Tables) -> None:
    found = summary.summarise(cut(tables, 5), factory.study())
    assert found.winner is not None
    (caution,) = [part for part in found.cautions if "test images cannot judge" in part]
    assert caution == (
        "5 test images cannot judge a drop of 0.01: the smallest that they can resolve is 0.43 (95 % "
        "confidence); at least "
        "381 would be needed."
    )
    assert found.reason.startswith(found.cautions[0]) and found.reason.index(caution) < found.reason.index(" median")
    exact = factory.study().model_copy(update={"select": Select(max_drop=0.0)})
    assert "no number of images resolves a drop of 0." in summary.summarise(cut(tables, 5), exact).reason


def test_without_predictions_the_number_of_images_is_enough_to_say_it(tables: Tables) -> None:
    bare = {name: tables[name] for name in summary.PARTS}
    said = "360 test images cannot judge a drop of 0.01"
    assert said in summary.summarise(bare, factory.study()).reason
    # unfit: it is not published, nor counted
    twice = tables | {"predictions": pl.concat([tables["predictions"]] * 2)}
    assert said in summary.summarise(twice, factory.study()).reason


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.08, "of 0.080 is no better than always naming the commonest class"),
        (0.12, "of 0.120 (95 % interval 0.090 to 0.158, 360 images) is not shown to be better than always naming"),
        (0.5, None),
    ],
)
def test_a_reference_that_knows_nothing_is_said_so_because_no_drop_proves_anything(
    tables: Tables, score: float, said: str | None
) -> None:
    made = tables
    for variant in set(tables["evaluations"]["variant"]):
        made = with_scores(made, variant, score)
    found = summary.summarise(made, factory.study())
    if said is None:
        assert not found.cautions
        return
    assert said in found.cautions[0] and "so no drop proves anything" in found.cautions[0]
    assert "'digit 2'" in found.cautions[0], "the commonest of the test images"


def test_an_allowed_drop_that_lets_chance_pass_is_said(tables: Tables) -> None:
    study = factory.study().model_copy(update={"select": Select(max_drop=0.9)})
    (caution,) = summary.summarise(tables, study).cautions
    assert caution.startswith("The allowed drop of 0.9 lets even always naming the commonest class")


def test_a_handful_of_validation_images_is_said_with_the_winner_and_where_their_scores_are(tables: Tables) -> None:
    sets = [row | ({"rows": 2} if row["split"] == "validation" else {}) for row in tables["datasets"].to_dicts()]
    few = tables | {"datasets": frames.frame("datasets", sets)}
    found = summary.summarise(few, factory.study())
    assert found.cautions == (f"{handful(2)}.",) and found.cautions[0].startswith("2 validation images cannot tell")
    html = page_of(few | {"summary": found.frame}, factory.study())
    assert html.index("Caution:") < html.index('<h2 id="candidates">')
    training = html[html.index('<h2 id="training">') : html.index('<h2 id="tuning">')]
    assert "2 validation images cannot tell" in training and "of 2 images" in training
    assert handful(metrics.FEW) == ""


def test_the_terminal_says_cautions_before_the_winner_and_breaks_lines_at_its_width(
    tables: Tables, tmp_path: Path
) -> None:
    found = summary.summarise(cut(tables, 5), factory.study())
    (tmp_path / "result.json").write_text(
        json.dumps(
            {
                "winner": figures.words(found.winner or {}),
                "reason": found.reason,
                "cautions": found.cautions,
                "sentences": found.sentences,
            }
        )
    )
    plain = conclusion(tmp_path).splitlines()
    said = [
        *(f"caution: {caution}" for caution in found.cautions),
        f"winner: {found.sentences[0]}",
        *found.sentences[1:],
    ]
    assert plain[:-1] == said and len(found.cautions) == 1 and plain[-1].startswith("report: ")
    narrow = conclusion(tmp_path, 80, colour=True)
    assert all(len(line) <= 80 + 11 for line in narrow.splitlines()[:-1]) and "\x1b[1;33mcaution" in narrow
    (tmp_path / csv_view.MARKED).touch()
    assert f"{csv_view.MARKED} has them" in conclusion(tmp_path)


# ------------------------------------------------------------------------------------------------------- BatchNorm


def epochs(train: float, validation: float) -> list[dict[str, Any]]:
    return [{"split": "train", "top1": train}, {"split": "validation", "top1": validation}]


def trained(work: Work, data: Prepared, momentum: float, steps: int) -> torch.nn.Module:
    """A small model that learns the digits well, with features far from the mean of 0 that their statistics begin
    with."""
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
    ("momentum", "steps", "top1", "said"),
    [
        # both are bad
        (0.01, 20, (0.3, 0.25), "after 20 training steps, 82% of them is still their initial value"),
        # validation is behind, and not because of the statistics
        (0.1, 40, (0.9, 0.3), None),
    ],
)
def test_statistics_are_told_where_the_model_is_much_better_with_others(
    tmp_path: Path, momentum: float, steps: int, top1: tuple[float, float], said: str | None
) -> None:
    from tests.support.digits import digits

    work = Work.at(tmp_path)
    data = digits(work)
    model = trained(work, data, momentum, steps)
    told = settled.note(model, model.state_dict(), epochs(*top1), data, work.store)
    assert (said in told) if told and said else told is said
    if said:
        better = settled.estimated_anew(model, data, work.store)
        assert settled.note(better, better.state_dict(), epochs(*top1), data, work.store) is None
        assert settled.initial_share(better[0]) is None, "a convolution has no statistics"


@pytest.mark.slow
def test_a_training_that_ends_before_batchnorm_has_settled_names_it_up_to_the_winner(
    tmp_path: Path, tables: Tables
) -> None:
    """Two steps an epoch: BatchNorm, with its momentum of 0.1, evaluates with most of what it started from."""
    from tasks.train import train
    from tests.support.digits import digits

    work = Work.at(tmp_path)
    data = digits(work, 240)
    how = Train(epochs=6, patience=6, batch_size=72, learning_rate=0.1)
    made = train(work, Model(name="resnet34", width=8), data, how, final=True)
    (row,) = pl.read_parquet(work.store.get(made.tables["variants"])).to_dicts()
    assert row["note"].startswith("BatchNorm's running statistics have not settled: in the weights that go on, after")
    same = [
        one
        | (
            {"note": row["note"], "sha256": row["sha256"]}
            if one["name"] == f"{REFERENCE.partition('/')[0]}/tune"
            else {}
        )
        | ({"sha256": row["sha256"]} if one["name"] == REFERENCE else {})
        for one in tables["variants"].to_dicts()
    ]
    weak = tables | {"variants": frames.frame("variants", same)}
    for variant in set(tables["evaluations"]["variant"]):
        weak = with_scores(weak, variant, 0.1 if variant.startswith("resnet") else 0.05)
    found = summary.summarise(weak, factory.study())
    assert found.reference is not None and found.reference["variant"] == REFERENCE
    assert "no better than always naming" in found.cautions[0]
    assert found.cautions[1] == row["note"], "of the same weights under another stage's name"
