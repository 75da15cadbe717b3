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

    from flows.report.charts import Figure
    from flows.report.grids import Row

STAGES = {
    "train": "training",
    "tune": "retrained with the best settings",
    "prune": "fine-tuning after pruning",
    "qat": "quantization-aware training",
}
NEAR = 0.02
"""F1 scores of training and validation that differ by no more are taken for equal."""
RISE = 0.005
"""Validation F1 that its last fifth of epochs gained on the fifth before: still rising."""
MIXED = ("mixup", "cutmix")
"""Policies whose training images have two labels each, so that their training scores are low by construction."""


@dataclass(frozen=True)
class Fit:
    """How a training ended: scores at the epoch best on validation, means over the seeds."""

    policy: str
    train: float
    validation: float
    rising: float | None
    """Validation F1 gained at the end, where it was still rising."""

    @property
    def gap(self) -> float:
        """What training scores above validation."""
        return self.train - self.validation


def training(epochs: pl.DataFrame, images: int | None = None) -> list[Figure]:
    """A chart a model and stage; tuning's trials and augmentation policies are shown in their own sections.

    `images`: validation images, where known.
    """
    import polars as pl

    kept = epochs.filter(~pl.col("variant").str.contains("/trial-"))
    groups = dict(kept.group_by("model", "stage", maintain_order=True))
    models = dict.fromkeys(model for model, _ in groups)
    return [
        charts.training(groups[model, stage], str(model), said, images)
        for model in models
        for stage, said in STAGES.items()
        if (model, stage) in groups
    ]


def augmentation(
    epochs: pl.DataFrame, variants: Sequence[Row], held_out: Mapping[str, Row], images: int | None
) -> list[tuple[list[Figure], list[str]]]:
    """Of each model: curves of its policies beside training without augmentation, and, where none of them helped, why.

    Parameters
    ----------
    held_out
        Variant -> its row of `evaluations`.
    images
        Validation images, where known.
    """
    import polars as pl

    parts = []
    stages = [row for row in variants if row["stage"] == "augment"]
    named = {row["name"]: row for row in variants}
    trained = set(epochs["variant"])
    for model in dict.fromkeys(row["model"] for row in stages):
        rows = [row for row in stages if row["model"] == model and row["name"] in trained]
        kept = next((row for row in stages if row["model"] == model and row["benchmark"]), None)
        figures, told = [], []
        for short in (True, False):
            runs = {str(row["setting"]): row["name"] for row in rows if row["name"].endswith(TRY) is short}
            plain = runs.pop("none", None) if short else _plain(rows, named, trained)
            longer = next((setting for setting, name in runs.items() if name.endswith(LONGER)), None)
            # trained as long as the policies
            if longer and (kept is None or kept["name"] in trained):
                plain = runs.pop(longer)
            if not runs:
                continue
            lines = {"none": plain, **runs} if plain else runs
            drawn = epochs.filter(epochs["variant"].is_in(list(lines.values()))).with_columns(variant=_policies(lines))
            figures.append(charts.training(drawn, str(model), f"policies{' tried in short' if short else ''}", images))
            if plain and kept:
                chosen = "none" if kept["name"] == plain else str(kept["setting"])
                fits = {policy: fit for policy, fit in _fits(drawn).items() if policy != longer}
                told += _verdict(fits, chosen, short, images)
                if not short and chosen in runs:
                    told += _worse_when_held_out(fits, chosen, held_out.get(kept["name"]), held_out.get(plain))
        if (
            told
            and (seeds := epochs.filter(pl.col("variant").is_in([row["name"] for row in rows]))["seed"].n_unique()) > 1
        ):
            told.append(f"Scores here are means over {seeds} seeds.")
        if figures:
            parts.append((figures, told))
    return parts


def _policies(lines: Mapping[str, str]) -> pl.Expr:
    """Variants by the name of their policy."""
    import polars as pl

    return pl.col("variant").replace_strict({name: policy for policy, name in lines.items()})


def _plain(rows: Sequence[Row], named: Mapping[str, Row], trained: set[str]) -> str | None:
    """The training without augmentation that the policies are compared with: the nearest ancestor that has curves."""
    name = rows[0]["parent"] if rows else None
    while name is not None and name not in trained:
        name = named[name]["parent"] if name in named else None
    return name


def _fits(epochs: pl.DataFrame) -> dict[str, Fit]:
    """Policy -> how its training ended."""
    import polars as pl

    made = {}
    means = epochs.group_by("variant", "epoch", "split", maintain_order=True).agg(pl.col("macro_f1").mean())
    for (policy,), rows in means.sort("epoch").group_by("variant", maintain_order=True):
        train, validation = (rows.filter(pl.col("split") == s)["macro_f1"].to_list() for s in ("train", "validation"))
        best, fifth = validation.index(max(validation)), max(1, len(validation) // 5)
        gain = fmean(validation[-fifth:]) - fmean(validation[-2 * fifth : -fifth] or validation[-fifth:])
        rising = gain if gain > RISE and best >= len(validation) - fifth else None
        made[str(policy)] = Fit(str(policy), train[best], validation[best], rising)
    return made


def _verdict(fits: Mapping[str, Fit], chosen: str, short: bool, images: int | None) -> list[str]:
    """Why the policies of one group did not beat training without augmentation; nothing where one did."""
    plain = fits["none"]
    others = [fit for policy, fit in fits.items() if policy != "none"]
    if chosen != "none" or not others or (short and any(fit.validation > plain.validation for fit in others)):
        return []
    which = "tried in short, no policy" if short else "no policy"
    told = [f"{which.capitalize()} beat training without augmentation (validation macro F1 {plain.validation:.3f})."]
    told += [f"The policy {fit.policy} reached {fit.validation:.3f}: {reason(fit, plain)}." for fit in others]
    nearest = max(others, key=lambda fit: fit.validation)
    if images:
        noise = 1.96 * sum(f.validation * (1 - f.validation) / images for f in (nearest, plain)) ** 0.5
        if plain.validation - nearest.validation < noise:
            told.append(
                f"Chance alone can make such a difference between two scores of {images} validation images, so "
                f"{nearest.policy} may be as good."
            )
    return told


def reason(fit: Fit, plain: Fit) -> str:
    """Why a policy is worse than none, from the two trainings' scores."""
    scores = (
        f"training F1 was {fit.train:.3f} ({plain.train:.3f} without augmentation), validation F1 {fit.validation:.3f}"
    )
    rising = f", and the validation score was still rising at the end (by {fit.rising:.3f})" if fit.rising else ""
    if fit.policy in MIXED:
        said = "training is scored on mixed images of two labels, so its score says little of the fit"
        return f"it is underfit{rising}; train longer" if fit.rising else f"{said}, and validation had stopped rising"
    if plain.train - fit.train > NEAR and fit.gap <= max(NEAR, plain.gap / 2):
        remedy = "longer training" if fit.rising else "a milder policy, a larger model or a higher learning rate"
        return f"it is underfit: {scores}{rising}; try {remedy}"
    if fit.gap > NEAR:
        remedy = "a stronger policy, more images or a smaller model"
        return f"it is overfit in spite of the augmentation: {scores}{rising}; try {remedy}"
    return f"it is neither underfit nor overfit: {scores}{rising}; training without augmentation leaves little to gain"


def _worse_when_held_out(fits: Mapping[str, Fit], chosen: str, own: Row | None, plain: Row | None) -> list[str]:
    if own is None or plain is None or own["macro_f1"] >= plain["macro_f1"]:
        return []
    apart = "" if own["macro_f1_high"] < plain["macro_f1_low"] else " (their 95 % intervals overlap)"
    return [
        f"{chosen} was better on validation and went on, but has a lower macro F1 on held-out images, "
        f"{own['macro_f1']:.3f} against {plain['macro_f1']:.3f}{apart}.",
        f"{chosen}: {reason(fits[chosen], fits['none'])}.",
    ]
