"""How many of a study's steps are done, and how long the rest takes, once that is known."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from flows.step import remaining
from tasks.caching.keys import digest
from tasks.machine.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flows.step import Step
    from tasks.records import Study

LOG = logging.getLogger("burnish")
TRAINING = ("ablate", "train", "tune", "augment", "prune", "qat")
MEASURING = ("benchmark", "serve", "aggregate")


class Progress:
    """How far a study is. The terminal reads it while the study runs."""

    latest: Progress | None = None
    """Progress of the study that was started last in this process."""

    def __init__(self, study: Study, plan: Sequence[Step], out: Path) -> None:
        """`plan`: every step of the study, as `flows.steps.steps` gives them."""
        self.started = time.monotonic()
        self.plan = plan
        self.results: dict[str, Any] = {}
        """Name of each step that has ended -> its result, None where it failed."""
        self.seconds: dict[str, float] = {}
        """Name of each step that was computed in this run -> how long that took."""
        self.waiting = list(plan)
        """Steps that have not begun, and may still be called."""
        self.current: Step | None = None
        """The step at work."""
        self.label = ""
        """The label of the step at work, or of the one that ended last, as messages have it."""
        self.began = self.started
        """When that step began, by the monotonic clock."""
        self.computed = False
        """Whether any step of this run was computed, and not taken from the cache."""
        self.durations = Durations(study, out)
        Progress.latest = self

    @property
    def done(self) -> int:
        """Steps that have ended: computed, cached, failed or skipped."""
        return len(self.results)

    @property
    def total(self) -> int:
        """Steps that have ended, and those that still will be called as far as is known now."""
        return self.done + len(self.waiting) + (self.current is not None)

    def begin(self, step: Step, label: str) -> None:
        """Note that a step begins, whose stage is called `label` in messages."""
        self.waiting.remove(step)
        self.current = step
        self.label = label
        self.began = time.monotonic()

    def end(self, result: Any, *, computed: bool) -> str:
        """Note that the step at work has ended, and return how many of all are done, in words.

        Parameters
        ----------
        result
            What it returned; None where it failed, which takes the steps that need it off the plan.
        computed
            Whether it was computed, and not taken from the cache.
        """
        assert self.current is not None
        if computed:
            self.computed = True
            self.seconds[self.current.name] = time.monotonic() - self.began
            self.durations.note(self.current, self.seconds[self.current.name])
        self.results[self.current.name] = result
        self.current = None
        self.waiting = remaining(self.plan, self.results)
        return f"{self.done} of {self.total} stages"

    def leave_out(self, step: Step) -> None:
        """Take a step off the plan, which need not be called."""
        self.plan = [other for other in self.plan if other is not step]
        self.waiting.remove(step)

    def seconds_of(self, name: str) -> float:
        """Return how long a step took, in this run or the last one with these settings; 0 where that is not known."""
        known = {step.name: step for step in self.plan}
        return self.seconds.get(name) or self.durations.of(known[name]) or 0.0

    def expected(self) -> float | None:
        """Seconds that the stage at work took the last time with these settings; None where that is not known."""
        return self.durations.of(self.current) if self.current else None

    def rest(self) -> float | None:
        """Seconds that the stages take which have not begun, if none is cached; None unless all are known."""
        seconds = [self.durations.of(step) for step in self.waiting]
        known = [duration for duration in seconds if duration is not None]
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
            # Only an estimate is lost.
            self.seconds = {}

    def of(self, step: Step) -> float | None:
        """Return the seconds that a stage took the last time with these settings, None where that is not known."""
        settings, seconds = self.seconds.get(step.name, ("", 0.0))
        return seconds if settings == self._settings(step) else None

    def note(self, step: Step, seconds: float) -> None:
        """Remember how long a stage took, also for later runs."""
        self.seconds[step.name] = (self._settings(step), round(seconds, 2))
        try:
            write_text(self.path, json.dumps(self.seconds, indent=1))
        except OSError as error:
            # That is no reason to lose the stage's result.
            LOG.warning("how long %s took could not be written to %s: %s", step.name, self.path, error.strerror)

    def _settings(self, step: Step) -> str:
        sections = {"data", "models", step.stage}
        if step.stage in TRAINING:
            sections.add("train")
        if step.stage in MEASURING:
            sections |= {"prune", "export", "quantize", "qat", "build", "benchmark", "serve"}
        whole = self.study.model_dump(mode="json")
        return digest({name: whole[name] for name in sorted(sections & whole.keys())})[:16]
