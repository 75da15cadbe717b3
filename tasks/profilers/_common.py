"""What the profilers share: rows summed by operator, stacks made of them, a trace of durations that have no times."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.profilers import Operator, Stacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def calm(durations: Sequence[float]) -> list[int]:
    """Which queries to sum up: the fastest quarter, so that no stall is put down to an operator."""
    in_order = sorted(range(len(durations)), key=durations.__getitem__)
    return sorted(in_order[: (len(durations) + 3) // 4])


def stacks_of(operators: Iterable[Operator], queries: int) -> Stacks:
    """Stacks of a library that gives no nesting of its own: the module's path, and the operator below it."""
    stacks: Stacks = {}
    for one in operators:
        parts = [part for part in one.path.split("/") if part]
        key = (*parts, one.type)
        stacks[key] = stacks.get(key, 0.0) + one.total_ms / queries
    return stacks


def write_trace(folder: Path, operators: Iterable[Operator], queries: int, note: str) -> None:
    """Write trace.json of durations alone: one mean query, its operators one after the other, in order of execution."""
    events, at = [], 0.0
    for one in operators:
        duration = one.total_ms / queries * 1000
        events.append(
            {
                "ph": "X",
                "cat": "Node",
                "pid": 0,
                "tid": 0,
                "name": one.name,
                "ts": at,
                "dur": duration,
                "args": {"op_name": one.type, "path": one.path, "precision": one.precision, "provider": one.provider},
            }
        )
        at += duration
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events, "otherData": {"note": note}}))
