"""The report's training curves, and why augmentation did not help where it did not."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from flows.report import charts
from tasks.tables.variants import LONGER, TRY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from flows.report.drawing import Figure
    from flows.report.grids import Row

STAGES = {
    "train": "training",
    "tune": "retrained with the best settings",
    "prune": "fine-tuning after pruning",
    "qat": "quantization-aware training",
}
NEAR = 0.02
"""Two F1 scores that differ by no more than this are taken for equal."""
RISE = 0.005
"""A training was still rising where its last fifth of epochs gained more validation F1 than this on those before."""
MIXED = ("mixup", "cutmix")
"""Policies whose training images have two labels each, so that their training scores are low by construction."""


@dataclass(frozen=True)
class Fit:
    """The end of a training with a policy. Scores are macro F1, means over the seeds."""

    policy: str
    train: float
    """Score on training images at the epoch with the best validation score."""
    validation: float
    """Score on validation images at that epoch."""
    rising: float | None
    """How much the validation score gained at the end, None where it had stopped rising."""

    @property
    def gap(self) -> float:
        """By how much the score on training images is above that on validation images."""
        return self.train - self.validation


def training(epochs: pl.DataFrame, images: int | None = None) -> list[Figure]:
    """Draw one chart per model and stage. Tuning's trials and augmentation's policies have sections of their own.

    `images` is the number of validation images, None where it is not known.
    """
    import polars as pl

    final = epochs.filter(~pl.col("variant").str.contains("/trial-"))
    groups = dict(final.group_by("model", "stage", maintain_order=True))
    models = dict.fromkeys(model for model, _ in groups)
    return [
        charts.training(groups[model, stage], str(model), words, images)
        for model in models
        for stage, words in STAGES.items()
        if (model, stage) in groups
    ]


def augmentation(
    epochs: pl.DataFrame, variants: Sequence[Row], held_out: Mapping[str, Row], images: int | None
) -> list[tuple[list[Figure], list[str]]]:
    """Return, for each model, curves of its policies beside training without augmentation, and why none helped.

    The reasons are empty where a policy helped.

    Parameters
    ----------
    variants
        Rows of the table `variants`.
    held_out
        Variant -> its row of `evaluations`.
    images
        Number of validation images, None where it is not known.
    """
    trained = set(epochs["variant"])
    augmented = [row for row in variants if row["stage"] == "augment"]
    named = {row["name"]: row for row in variants}
    parts = []
    for model in dict.fromkeys(row["model"] for row in augmented):
        of_model = [row for row in augmented if row["model"] == model]
        rows = [row for row in of_model if row["name"] in trained]
        kept = next((row for row in of_model if row["benchmark"]), None)
        figures, reasons = [], []
        for short in (True, False):
            group = _group(rows, kept, named, trained, short=short)
            if group is None:
                continue
            drawn = epochs.filter(epochs["variant"].is_in(list(group.lines.values())))
            drawn = drawn.with_columns(variant=_policies(group.lines))
            title = "policies tried in short" if short else "policies"
            figures.append(charts.training(drawn, str(model), title, images))
            reasons += _reasons(group, _fits(drawn), kept, held_out, images)
        seeds = epochs.filter(epochs["variant"].is_in([row["name"] for row in rows]))["seed"].n_unique()
        if reasons and seeds > 1:
            reasons.append(f"Scores here are means over {seeds} seeds.")
        if figures:
            parts.append((figures, reasons))
    return parts


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The trainings of one model that are drawn together: its policies, tried in short or trained in full."""

    policies: dict[str, str]
    """Policy -> variant."""
    plain: str | None
    """The variant trained without augmentation that the policies are compared with, None where it has no curves."""
    short: bool
    """Whether the policies were tried in short."""
    longer: str | None
    """The setting of the tuned training that was done again for as many epochs as the policies."""

    @property
    def lines(self) -> dict[str, str]:
        """The name of each line of the chart -> variant."""
        return {"none": self.plain, **self.policies} if self.plain else self.policies


def _group(
    rows: Sequence[Row], kept: Row | None, named: Mapping[str, Row], trained: set[str], *, short: bool
) -> _Group | None:
    """Return the trainings of a model that were tried in short, or those in full; None where there are no policies.

    Parameters
    ----------
    rows
        Rows of `variants` of the stage augment that have curves.
    kept
        The row that later stages use.
    named
        Name -> row of `variants`.
    trained
        Names of all variants that have curves.
    """
    runs = {str(row["setting"]): row["name"] for row in rows if row["name"].endswith(TRY) is short}
    plain = runs.pop("none", None) if short else _plain(rows, named, trained)
    longer = next((policy for policy, name in runs.items() if name.endswith(LONGER)), None)
    # The policies are compared with the training that lasted as long, unless weights without curves were kept.
    if longer and (kept is None or kept["name"] in trained):
        plain = runs.pop(longer)
    if not runs:
        return None
    return _Group(policies=runs, plain=plain, short=short, longer=longer)


def _reasons(
    group: _Group, fits: Mapping[str, Fit], kept: Row | None, held_out: Mapping[str, Row], images: int | None
) -> list[str]:
    """Return why the policies of a group did not help; empty where one did, or where that is not known."""
    if not group.plain or not kept:
        return []
    chosen = "none" if kept["name"] == group.plain else str(kept["setting"])
    fits = {policy: fit for policy, fit in fits.items() if policy != group.longer}
    reasons = _verdict(fits, chosen, group.short, images)
    if not group.short and chosen in group.policies:
        reasons += _worse_when_held_out(fits, chosen, held_out.get(kept["name"]), held_out.get(group.plain))
    return reasons


def _policies(lines: Mapping[str, str]) -> pl.Expr:
    """Return what replaces the name of a variant by that of its policy."""
    import polars as pl

    return pl.col("variant").replace_strict({name: policy for policy, name in lines.items()})


def _plain(rows: Sequence[Row], named: Mapping[str, Row], trained: set[str]) -> str | None:
    """Return the training without augmentation that policies are compared with: the nearest ancestor with curves."""
    name = rows[0]["parent"] if rows else None
    while name is not None and name not in trained:
        name = named[name]["parent"] if name in named else None
    return name


def _fits(epochs: pl.DataFrame) -> dict[str, Fit]:
    """Return policy -> how its training ended. The column `variant` of the epochs names the policy."""
    import polars as pl

    fits = {}
    means = epochs.group_by("variant", "epoch", "split", maintain_order=True).agg(pl.col("macro_f1").mean())
    for (policy,), rows in means.sort("epoch").group_by("variant", maintain_order=True):
        train = rows.filter(pl.col("split") == "train")["macro_f1"].to_list()
        validation = rows.filter(pl.col("split") == "validation")["macro_f1"].to_list()
        best = validation.index(max(validation))
        fits[str(policy)] = Fit(str(policy), train[best], validation[best], _rising(validation, best))
    return fits


def _rising(validation: Sequence[float], best: int) -> float | None:
    """Return how much the last fifth of the epochs gained, None where the score had stopped rising.

    `best` is the index of the best epoch.
    """
    fifth = max(1, len(validation) // 5)
    last = validation[-fifth:]
    before = validation[-2 * fifth : -fifth] or last
    gain = fmean(last) - fmean(before)
    return gain if gain > RISE and best >= len(validation) - fifth else None


def _verdict(fits: Mapping[str, Fit], chosen: str, short: bool, images: int | None) -> list[str]:
    """Return why the policies of one group did not beat training without augmentation; empty where one did."""
    plain = fits["none"]
    others = [fit for policy, fit in fits.items() if policy != "none"]
    if chosen != "none" or not others or (short and any(fit.validation > plain.validation for fit in others)):
        return []
    which = "tried in short, no policy" if short else "no policy"
    sentences = [
        f"{which.capitalize()} beat training without augmentation (validation macro F1 {plain.validation:.3f})."
    ]
    sentences += [f"The policy {fit.policy} reached {fit.validation:.3f}: {reason(fit, plain)}." for fit in others]
    nearest = max(others, key=lambda fit: fit.validation)
    if images:
        # The 95 % interval of a difference of two independent shares of `images` images.
        noise = 1.96 * sum(fit.validation * (1 - fit.validation) / images for fit in (nearest, plain)) ** 0.5
        if plain.validation - nearest.validation < noise:
            sentences.append(
                f"Chance alone can make such a difference between two scores of {images} validation images, so "
                f"{nearest.policy} may be as good."
            )
    return sentences


def reason(fit: Fit, plain: Fit) -> str:
    """Return why a policy is no better than none, judged by the scores of the two trainings."""
    scores = (
        f"training F1 was {fit.train:.3f} ({plain.train:.3f} without augmentation), validation F1 {fit.validation:.3f}"
    )
    rising = f", and the validation score was still rising at the end (by {fit.rising:.3f})" if fit.rising else ""
    if fit.policy in MIXED:
        if fit.rising:
            return f"it is underfit{rising}; train longer"
        return (
            "training is scored on mixed images of two labels, so its score says little of the fit, and validation "
            "had stopped rising"
        )
    if plain.train - fit.train > NEAR and fit.gap <= max(NEAR, plain.gap / 2):
        remedy = "longer training" if fit.rising else "a milder policy, a larger model or a higher learning rate"
        return f"it is underfit: {scores}{rising}; try {remedy}"
    if fit.gap > NEAR:
        remedy = "a stronger policy, more images or a smaller model"
        return f"it is overfit in spite of the augmentation: {scores}{rising}; try {remedy}"
    return f"it is neither underfit nor overfit: {scores}{rising}; training without augmentation leaves little to gain"


def _worse_when_held_out(fits: Mapping[str, Fit], chosen: str, own: Row | None, plain: Row | None) -> list[str]:
    """Return why the chosen policy has a lower score on held-out images than none; empty where it has not.

    `own` and `plain` are the rows of `evaluations` of the two.
    """
    if own is None or plain is None or own["macro_f1"] >= plain["macro_f1"]:
        return []
    apart = "" if own["macro_f1_high"] < plain["macro_f1_low"] else " (their 95 % intervals overlap)"
    return [
        f"{chosen} was better on validation and went on, but has a lower macro F1 on held-out images, "
        f"{own['macro_f1']:.3f} against {plain['macro_f1']:.3f}{apart}.",
        f"{chosen}: {reason(fits[chosen], fits['none'])}.",
    ]
