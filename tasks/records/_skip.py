"""A study without the stages that it skips: the settings by which each of them is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.records._base import formats

if TYPE_CHECKING:
    from tasks.records._base import SkippableStage
    from tasks.records._study import Study

LEFT_OUT: dict[SkippableStage, dict[str, Any]] = {
    "ablate": {"techniques": {}},
    "tune": {"trials": 0},
    "augment": {"policies": ()},
    "prune": {"ratios": ()},
    "quantize": {"settings": (), "dynamic": False},
    "qat": {"epochs": 0},
    "build": {"precisions": ()},
    "serve": {"seconds": 0.0},
}
"""Stage -> the fields of its settings by which it is left out."""


def without_skipped(study: Study) -> Study:
    """Return the study with the stages in `study.skip` left out by their own settings.

    Where engines are not built, the runtimes that only execute engines are left out too.
    """
    parts: dict[str, Any] = {stage: getattr(study, stage).model_copy(update=LEFT_OUT[stage]) for stage in study.skip}
    if "build" in study.skip:
        fed = tuple(name for name in study.benchmark.runtimes if name == "auto" or formats(name) != ("engine",))
        parts["benchmark"] = study.benchmark.model_copy(update={"runtimes": fed})
    return study.model_copy(update={**parts, "skip": ()})
