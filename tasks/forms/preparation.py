"""Find out how a given model wants its images: from what states it, and by trying it on labelled images.

The most usual mistake with somebody else's model is a wrong mean, scale, order of channels, size, crop or order of
classes. It raises no error: the model only becomes less accurate. So what is stated is believed unless the images
contradict it clearly, and what nothing states is taken from the usual ways only if one of them is clearly the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.datasets._statistics import moments
from tasks.forms import given
from tasks.forms._options import Accepted, Asked, Aspects, aspects, screened, tries
from tasks.forms._search import Search
from tasks.forms._statements import statements
from tasks.forms._tries import Classifier, Trials
from tasks.records import Preparation

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.forms._statements import Normalisation, Statement
    from tasks.forms._trial_images import TrialImages
    from tasks.forms._tries import Try
    from tasks.forms.given import Graph
    from tasks.records import Data, Model

SHOWN = 10
"""The log shows at most this many tries, the best."""
FIELDS = {
    "order": ("order",),
    "layout": ("layout",),
    "geometry": ("image_size", "resize"),
    "normalisation": ("mean", "std"),
    "classes": ("outputs_of_classes",),
}
"""Aspect of a try -> the fields of `Preparation` that it decides."""


@dataclass(frozen=True)
class Found:
    """The preparation that was found, and what it was chosen from."""

    preparation: Preparation
    rows: tuple[dict[str, Any], ...]
    """One row of the table `preparations` per try."""


def stated(file: Path, graph: Graph, model: Model) -> list[Statement]:
    """Return what is stated of a model's preparation, by its file, beside it or by its library; see `statements`."""
    return statements(file, graph.metadata, model.name)


def find(
    file: Path,
    graph: Graph,
    model: Model,
    settings: Data,
    *,
    told: Sequence[Statement],
    images: TrialImages | None,
    classes: tuple[str, ...],
    log: logging.Logger,
) -> Found:
    """Find out how a model wants its images, by trying what is stated and what is usual on labelled images.

    What `model` and `settings` set is never varied.

    Parameters
    ----------
    file
        The ONNX file.
    told
        What `stated` returned.
    images
        None: there are no labelled images, and nothing is tried.
    classes
        Names of the data's classes.

    Raises
    ------
    ValueError
        If nothing shows clearly which preparation is right, or the model is near chance with any. One line.
    """
    output, note = given.score_output(graph, model.output, len(classes))
    if note:
        log.info("%s", note)
    classifier = Classifier(file, graph, output.name)
    outputs = output.classes or classifier.outputs(given.layouts(graph))
    accepted = Accepted(layouts=given.layouts(graph), dtype=graph.dtype, outputs=outputs)
    asked = Asked(
        model=model,
        data=settings,
        statements=told,
        classes=classes,
        own_size=images.own_size if images else None,
        moments=_moments(images) if images else None,
    )
    options = aspects(asked, accepted)
    for text in options.notes:
        log.warning("%s", text)
    if images is None:
        chosen = _as_told(options, accepted)
        log.warning("no image has a label, so that the preparation is taken as it is stated: %s", chosen)
        return Found(_preparation(chosen, output.name, 0), ())
    trials = Trials(classifier, images)
    try:
        chosen = Search(options, accepted, trials, log).find()
    finally:
        _show(trials, log)
    log.info("taken: %s", chosen)
    rows = tuple(_row(tried, trials, model, chosen) for tried in trials.seen)
    return Found(_preparation(chosen, output.name, len(images)), rows)


def _moments(images: TrialImages) -> Normalisation | None:
    """Return mean and std of the images' own pixels, to three digits: what burnish itself trains with by default."""
    pixels = images.pixels(images.own_size or 64, None, len(images))
    pixels = pixels[..., :1] if images.grey else pixels
    mean, std = (tuple(round(value, 3) for value in values) for values in moments(pixels, np.arange(len(pixels))))
    return (mean, std) if all(std) else None


def _as_told(options: Aspects, accepted: Accepted) -> Try:
    """Return the preparation that is stated, where there are no images to try any.

    Raises
    ------
    ValueError
        If something that matters is neither set nor stated.
    """
    settings = {"order": "models.order", "normalisation": "data.mean and data.std", "geometry": "data.image_size"}
    open_settings = [words for aspect, words in settings.items() if not options.told().get(aspect)]
    if open_settings:
        raise ValueError(
            "no image has a label, so that the preparation cannot be found by trying: give " + ", ".join(open_settings)
        )
    return min(tries(options, accepted, screened(options, None)), key=lambda tried: (not tried.as_told, tried.rank))


def _preparation(chosen: Try, output: str, images: int) -> Preparation:
    """Return a try as a record, with where each value comes from."""
    told_by: dict[str, str] = {}
    for aspect, fields in FIELDS.items():
        option = getattr(chosen, aspect)
        told_by |= dict.fromkeys(fields, option.by if option.told else f"tried on {images} images")
    geometry = chosen.geometry.value
    mean, std = chosen.normalisation.value
    return Preparation(
        image_size=geometry.image_size,
        resize=geometry.resize,
        order=chosen.order.value,
        layout=chosen.layout.value,
        mean=mean,
        std=std,
        output=output,
        outputs_of_classes=chosen.classes.value.outputs,
        told_by=told_by,
    )


def _row(tried: Try, trials: Trials, model: Model, chosen: Try) -> dict[str, Any]:
    """Return a row of the table `preparations`."""
    count = trials.seen[tried]
    geometry = tried.geometry.value
    mean, std = tried.normalisation.value
    told = {getattr(tried, aspect).by: None for aspect in FIELDS if getattr(tried, aspect).told}
    return {
        "model": model.label,
        "number": list(trials.seen).index(tried),
        "order": tried.order.value,
        "layout": tried.layout.value,
        "image_size": geometry.image_size,
        "resize": geometry.resize or geometry.image_size,
        "mean": list(mean),
        "std": list(std),
        "class_order": tried.classes.value.words,
        "images": count,
        "top1": float(trials.right(tried, count).mean()),
        "chosen": tried is chosen,
        "told_by": "; ".join(told) or None,
    }


def _show(trials: Trials, log: logging.Logger) -> None:
    """Log the best tries, those on most images first."""
    ranked = sorted(
        trials.seen,
        key=lambda tried: (-trials.seen[tried], -trials.right(tried, trials.seen[tried]).mean(), tried.rank),
    )
    if ranked:
        log.info("%d ways to prepare images were tried; top-1, number of images, preparation:", len(ranked))
    for tried in ranked[:SHOWN]:
        count = trials.seen[tried]
        log.info("  %.3f  %3d  %s", trials.right(tried, count).mean(), count, tried)
    for wanted, reason in trials.refused.items():
        log.info(
            "  the model does not accept %s at %d pixels: %s", wanted.layout, wanted.geometry.image_size, reason[:200]
        )
