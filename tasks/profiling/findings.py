"""What the rules of tasks/profiling/diagnose.py look at (a case) and what they give (findings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.profilers._kinds import kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.profilers import Measured, Operator

SEVERITIES = ("high", "medium", "low")
HIGH, MEDIUM = 0.2, 0.05
"""Shares of time from which a finding is severe, or is told at all where only its time makes it one."""
HEAVY = ("conv", "matmul", "gemm", "linear", "fullyconnected", "addmm")
"""Operators with nearly all arithmetic of a classifier, by what their types hold."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that keeps a model from being faster."""

    severity: str
    what: str
    nodes: tuple[str, ...]
    """As the runtime or the graph names them; empty where it is about the whole."""
    evidence: str
    remedy: str
    share: float = 0.0
    """Of the operators' time, what it is about; of two findings alike in severity that with more comes first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the rules look at."""

    profile: Measured
    runtime: str
    device: str
    threads: int
    cores: int
    """Physical cores that the process may use."""
    cpu_features: tuple[str, ...]
    """Those of machine.FEATURES that the CPU has."""
    split: tuple[float, float, float, float] | None = None
    """H2D, enqueue, compute and D2H of a query, ms; of CUDA sessions alone."""

    def share(self, operators: Iterable[Operator]) -> float:
        """Their share of all operators' time."""
        total = sum(one.total_ms for one in self.profile.operators)
        return sum(one.total_ms for one in operators) / total if total else 0.0

    def of_kind(self, *kinds: str) -> list[Operator]:
        """Operators of some kinds, those with the most time first."""
        found = [one for one in self.profile.operators if kind(one.type) in kinds]
        return sorted(found, key=lambda one: -one.total_ms)


def counted(number: int, what: str) -> str:
    """1 operator, 2 operators."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def severity(share: float) -> str:
    return "high" if share >= HIGH else "medium" if share >= MEDIUM else "low"


def names(operators: Iterable[Operator]) -> tuple[str, ...]:
    return tuple(one.name for one in sorted(operators, key=lambda one: -one.total_ms))


def heavy(one: Operator) -> bool:
    # The kind comes first: QuantizeLinear and Convert hold such words, too.
    return kind(one.type) == "compute" and any(word in one.type.lower() for word in HEAVY)
