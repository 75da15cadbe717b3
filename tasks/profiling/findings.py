"""What the rules of tasks/profiling/diagnose.py look at (a case), and what they return (findings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.profilers._kinds import kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.profilers import Measured, Operator

SEVERITIES = ("high", "medium", "low")
# A finding about this share of the operators' time or more is of high or medium severity. Where nothing but its time
# makes it worth reporting, it is reported from MEDIUM on.
HIGH = 0.2
MEDIUM = 0.05
HEAVY = ("conv", "matmul", "gemm", "linear", "fullyconnected", "addmm")
"""Operators that have nearly all arithmetic of a classifier have one of these words in their type."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that keeps a model from being faster."""

    severity: str
    what: str
    nodes: tuple[str, ...]
    """The operators or convolutions that it is about, as the runtime or the graph names them. Empty where it is about
    the model as a whole."""
    evidence: str
    remedy: str
    share: float = 0.0
    """Share of the operators' time that it is about. Of two findings of the same severity, the larger share comes
    first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A profile and where it was taken: what the rules look at."""

    profile: Measured
    runtime: str
    device: str
    threads: int
    cores: int
    """Physical cores that the process may use."""
    cpu_features: tuple[str, ...]
    """Those of machine.FEATURES that the CPU has."""
    split: tuple[float, float, float, float] | None = None
    """Milliseconds per query of host-to-device copy (H2D), enqueue, compute and device-to-host copy (D2H). None on a
    CPU."""
    recorded: int = 0
    """How many queries were recorded. The operators may be summed over fewer: see `Measured.queries`."""

    def share(self, operators: Iterable[Operator]) -> float:
        """Return which share of the time of all operators these operators take."""
        total_ms = sum(operator.total_ms for operator in self.profile.operators)
        return sum(operator.total_ms for operator in operators) / total_ms if total_ms else 0.0

    def of_kind(self, *kinds: str) -> list[Operator]:
        """Return the operators of some kinds (see tasks/profilers/_kinds.py), those with the most time first."""
        operators = [operator for operator in self.profile.operators if kind(operator.type) in kinds]
        return sorted(operators, key=lambda operator: -operator.total_ms)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 operator", "2 operators"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def severity(share: float) -> str:
    """Return the severity of a finding about this share of the operators' time."""
    if share >= HIGH:
        return "high"
    return "medium" if share >= MEDIUM else "low"


def names(operators: Iterable[Operator]) -> tuple[str, ...]:
    """Return the names of operators, those with the most time first."""
    return tuple(operator.name for operator in sorted(operators, key=lambda operator: -operator.total_ms))


def heavy(operator: Operator) -> bool:
    """Return whether an operator is a convolution or matrix product."""
    # The kind is looked at too, because the types QuantizeLinear and Convert also have words of HEAVY.
    return kind(operator.type) == "compute" and any(word in operator.type.lower() for word in HEAVY)
