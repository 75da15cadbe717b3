"""Which stages a study will run, how many of them are done, and how long the rest takes, once that is known."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.caching.keys import digest
from tasks.machine.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Study

LOG = logging.getLogger("burnish")
TRAINING = ("ablate", "train", "tune", "augment", "prune", "qat")
MEASURING = ("benchmark", "serve", "aggregate")


@dataclass(frozen=True)
class Planned:
    """A stage that a study is going to run."""

    stage: str
    """The stage's name, e.g. export."""
    model: str = ""
    """Label of the model that it is run for; empty for the stages that are run once."""
    part: str = ""
    """Part of the model's work: its techniques, its weights, or the forms of its first, second, ... weights."""

    def __str__(self) -> str:
        return " ".join(word for word in (self.stage, self.model, self.part) if word)


def builds_aware(study: Study) -> bool:
    """Whether an engine is built of a form of quantization-aware training."""
    return "s8s8" in study.qat.settings and "int8" in study.build.precisions


def plan(study: Study) -> list[Planned]:
    """Every stage of a study in which nothing fails, in the order in which they are run."""
    made = [Planned("prepare")]
    for model in study.models:
        made += [Planned("ablate", model.label, "techniques") for _ in study.ablate.names]
    for model in study.models:
        made.append(Planned("train", model.label, "weights"))
        made += [Planned("tune", model.label, "weights")] if study.tune.trials else []
        made += [Planned("augment", model.label, "weights")] if study.augment.policies else []
        made += [Planned("prune", model.label, f"weights {ratio:g}") for ratio in study.prune.ratios]
        for number in range(1 + len(study.prune.ratios)):
            made += [Planned(stage, model.label, forms(number)) for stage in _stages_of_forms(study)]
    serve = [Planned("serve")] if study.serve.seconds else []
    return [*made, Planned("benchmark"), *serve, Planned("aggregate")]


def forms(number: int) -> str:
    """The part of a model's work that makes the forms of its weights number 0, 1, ..."""
    return f"forms {number}"


def _stages_of_forms(study: Study) -> list[str]:
    quantized = ["quantize"] if study.quantize.settings or study.quantize.dynamic else []
    built = ["build"] if study.build.precisions else []
    aware = (["qat", "build"] if builds_aware(study) else ["qat"]) if study.qat.epochs else []
    return ["export", *quantized, *built, *aware]


class Progress:
    """How far a study is. The terminal reads it while the study runs."""

    latest: Progress | None = None
    """Progress of the study that was started last in this process."""

    def __init__(self, study: Study, out: Path) -> None:
        self.started = time.monotonic()
        self.waiting = plan(study)
        """Stages that have not begun."""
        self.current: Planned | None = None
        """The stage at work."""
        self.done = 0
        """Stages that have ended: computed, cached, failed or skipped."""
        self.label = ""
        """The name of the stage at work, or of the one that ended last."""
        self.began = self.started
        """When that stage began."""
        self.computed = False
        """Whether any stage of this run was computed, and not taken from the cache."""
        self.durations = Durations(study, out)
        Progress.latest = self

    @property
    def total(self) -> int:
        """Stages that have ended, and those that still will be run as far as is known now."""
        return self.done + len(self.waiting) + (self.current is not None)

    def begin(self, stage: str, model: str, label: str) -> None:
        """Note that a stage begins, which is called `label` in messages."""
        of_it = (planned for planned in self.waiting if planned.stage == stage and planned.model in ("", model))
        self.current = next(of_it, None)
        if self.current is not None:
            self.waiting.remove(self.current)
        else:
            self.current = Planned(stage, model)
        self.label, self.began = label, time.monotonic()

    def end(self, computed: bool) -> str:
        """Note that the stage at work has ended, and return how many of all are done, in words."""
        assert self.current is not None
        if computed:
            self.computed = True
            self.durations.note(self.current, time.monotonic() - self.began)
        self.current = None
        self.done += 1
        return f"{self.done} of {self.total} stages"

    def close(self, model: str, part: str) -> None:
        """Take what was planned for a part of a model's work, and did not come, off the plan."""
        self.waiting = [planned for planned in self.waiting if planned.model != model or planned.part != part]

    def keep_forms(self, model: str, weights: int) -> None:
        """Keep of a model's plan the forms of so many weights: those are made, and no others come."""
        kept = [forms(number) for number in range(weights)]
        self.waiting = [planned for planned in self.waiting if planned.model != model or planned.part in kept]

    def expected(self) -> float | None:
        """Seconds that the stage at work took the last time with these settings; None where that is not known."""
        return self.durations.of(self.current) if self.current else None

    def rest(self) -> float | None:
        """Seconds that the stages take which have not begun, if none is cached; None unless all are known."""
        seconds = [self.durations.of(planned) for planned in self.waiting]
        known = [one for one in seconds if one is not None]
        return sum(known) if len(known) == len(seconds) else None


class Durations:
    """How long stages took, from the last run of a study of this name in this folder.

    A stage's time counts for one of the same settings: of its own section, the data, the models and, where they matter,
    training or measuring.
    """

    def __init__(self, study: Study, out: Path) -> None:
        self.study = study
        self.path = out / "store" / "seconds" / f"{study.name}.json"
        self.seconds: dict[str, tuple[str, float]] = {}
        try:
            for name, (settings, seconds) in json.loads(self.path.read_text()).items():
                self.seconds[str(name)] = (str(settings), float(seconds))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError):
            # an estimate is all that is lost
            self.seconds = {}

    def of(self, planned: Planned) -> float | None:
        """Seconds of a stage, or None."""
        settings, seconds = self.seconds.get(str(planned), ("", 0.0))
        return seconds if settings == self._settings(planned) else None

    def note(self, planned: Planned, seconds: float) -> None:
        """Remember how long a stage took."""
        self.seconds[str(planned)] = (self._settings(planned), round(seconds, 2))
        try:
            write_text(self.path, json.dumps(self.seconds, indent=1))
        except OSError as error:
            # no reason to lose the stage
            LOG.warning("how long %s took could not be written to %s: %s", planned, self.path, error.strerror)

    def _settings(self, planned: Planned) -> str:
        sections = {"data", "models", planned.stage}
        if planned.stage in TRAINING:
            sections.add("train")
        if planned.stage in MEASURING:
            sections |= {"prune", "export", "quantize", "qat", "build", "benchmark", "serve"}
        whole = self.study.model_dump(mode="json")
        return digest({name: whole[name] for name in sorted(sections & whole.keys())})[:16]
