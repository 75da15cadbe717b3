"""What a study came to, as far as the sentences about it need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records import Study
    from tasks.tables.rule import Row

Comparison = tuple[float, float, float | None, str]
"""How many times as good as the first of two candidates the second is in the measure that ranks, the ends of the 99 %
interval, and the verdict on the second one."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a study, as far as the sentences are about it."""

    rows: Sequence[Row]
    """All rows of the summary."""
    study: Study
    batch_size: int
    """The batch size at which candidates are compared."""
    reference: Row | None
    winner: Row | None
    runner_up: Row | None
    provisional: Row | None
    gain: Comparison | None
    """Winner, or provisional best, compared with the reference. None where their rounds do not pair, and for sizes and
    memory, which have no rounds."""
    comparison: Comparison | None
    """Winner compared with the runner-up. None also where there is no runner-up."""
    drop: str
    """What the test images show of the winner's drop (tasks/tables/evidence.py)."""
    hop: str
    """At which hop most of the allowed drop is lost (tasks/tables/hops.py); empty where at none."""
