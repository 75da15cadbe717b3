"""One step of a study, as data: which stage is called, with what, and what it needs of the steps before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.records import Trained, Variant


@dataclass(frozen=True)
class Variants:
    """An input: the variants that go on to the benchmark from all steps before, failed ones included."""


@dataclass(frozen=True)
class Fragments:
    """An input: the fragments that all steps before have written, by the name of their table."""

    tables: tuple[str, ...] | None = None
    """Tables whose fragments are meant; None: all."""


@dataclass(frozen=True)
class ResultOf:
    """An input that is the result of another step, or a part of it."""

    steps: tuple[str, ...]
    """Names of steps; the result is that of the first of them that has one."""
    part: Callable[[Any], Any] = lambda result: result
    """Returns the part of a result that is the input, None where the result has no such part."""
    optional: bool = False
    """Whether the step is called with None where there is no such result. If not, it is left out."""

    def taken_from(self, results: Mapping[str, Any]) -> Any:
        """Return the input, None where none of the steps has such a result."""
        result = next((results[name] for name in self.steps if results.get(name) is not None), None)
        return None if result is None else self.part(result)


DATA = ResultOf(("prepare",))
"""The prepared images."""


@dataclass(frozen=True)
class ResultsOf:
    """An input: the results of those of the named steps that have one, in their order."""

    steps: tuple[str, ...]

    def taken_from(self, results: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the input."""
        return tuple(results[name] for name in self.steps if results.get(name) is not None)


@dataclass(frozen=True)
class FailedVariant:
    """The variant that stands in the tables for what a failed step would have made."""

    model: str
    stage: str
    suffix: str
    """The last part of its name."""
    parent: str = ""
    """Name of the input that is its parent. Empty: it has no parent."""
    beside: bool = False
    """Whether its name begins with its parent's name. If not, it begins with the model's label."""
    format: str = "safetensors"

    def of(self, inputs: Mapping[str, Any], status: str, error: str) -> Variant:
        """Return the variant for the inputs that the step was called with."""
        value = inputs.get(self.parent)
        parent = value.variant if isinstance(value, Trained) else value
        return Variant(
            name=f"{parent.name if self.beside and parent else self.model}/{self.suffix}",
            model=self.model,
            stage=self.stage,
            parent=parent.name if parent else None,
            format=self.format,
            status="skipped" if status == "skipped" else "failed",
            error=error,
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a stage."""

    stage: str
    name: str
    """What the step is called; unique in a study."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """The stage's inputs: values, a `ResultOf`, `Variants` or `Fragments`."""
    model: str = ""
    """Label of the model that the step is for; empty for steps that are for the whole study."""
    failed: FailedVariant | dict[str, str] | None = None
    """What stands in the tables if the step fails: a variant, or keys of a row of `ablations`; nothing, where that is
    empty. None: a failure ends the study."""
    first: bool = False
    """Whether the step is of the first answer, which is given before the search. The last answer replaces its rows."""
    measures: str = ""
    """Name of an input whose variant the benchmark measures, before those that the step makes."""

    @property
    def needs(self) -> list[ResultOf]:
        """Results of other steps without which this one is left out."""
        return [value for value in self.inputs.values() if isinstance(value, ResultOf) and not value.optional]


def remaining(plan: Sequence[Step], results: Mapping[str, Any]) -> list[Step]:
    """Return the steps that have not ended and may still be called, in order.

    Parameters
    ----------
    plan
        All steps of the study.
    results
        Name of each step that has ended -> its result, None where it failed.
    """
    waiting: list[Step] = []
    for step in plan:
        names = {other.name for other in waiting}
        if step.name not in results and all(_can_come(need, names, results) for need in step.needs):
            waiting.append(step)
    return waiting


def _can_come(need: ResultOf, waiting: set[str], results: Mapping[str, Any]) -> bool:
    return not waiting.isdisjoint(need.steps) or need.taken_from(results) is not None
