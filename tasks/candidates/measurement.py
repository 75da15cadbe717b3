"""A visit as the worker process sees it, while it is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tasks.candidates.process import Effort
    from tasks.machine.certificate import Watch


@dataclass
class Measurement:
    """One batch size that is being measured, in turns."""

    experiment: str
    batch_size: int
    effort: Effort
    queries: list[Callable[[], object]]
    """One function per slot. Each call of it runs the slot's next query."""
    watch: Watch
    warm_up: dict[str, Any] = field(default_factory=dict)
    """The part of the answer that is about warm-up."""
    samples: list[np.ndarray] = field(default_factory=list)
    """int64, nanoseconds: one array per turn."""
    seconds: float = 0.0
    """How long the turns took so far."""

    @property
    def hurried(self) -> bool:
        """Whether the limit of time left it less warm-up, less time or fewer queries than it should have had."""
        if self.effort.limit is None:
            return False
        return (
            self.warm_up["warmup_seconds"] < self.effort.warmup_seconds
            or self.seconds < self.effort.min_seconds
            or sum(map(len, self.samples)) < self.effort.min_queries
        )
