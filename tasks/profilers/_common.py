"""Shared by the profilers: which queries are summed up, stacks of operators, and a trace made of durations alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.profilers import Operator, Stacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def calm(durations: Sequence[float]) -> list[int]:
    """Return the numbers of the queries to sum up: the fastest quarter.

    Then a stall of the machine is not taken for the time of an operator.
    """
    in_order = sorted(range(len(durations)), key=durations.__getitem__)
    return sorted(in_order[: (len(durations) + 3) // 4])


def stacks_of(operators: Iterable[Operator], queries: int) -> Stacks:
    """Return the stacks of a library that reports no nesting: the path of a module, and its operators below it."""
    stacks: Stacks = {}
    for operator in operators:
        modules = [part for part in operator.path.split("/") if part]
        stack = (*modules, operator.type)
        stacks[stack] = stacks.get(stack, 0.0) + operator.total_ms / queries
    return stacks


def write_trace(folder: Path, operators: Iterable[Operator], queries: int, note: str) -> None:
    """Write a trace.json of a library that reports durations but no times.

    It shows one mean query, with its operators one after the other, in the order of execution.
    """
    events = []
    start_us = 0.0
    for operator in operators:
        duration_us = operator.total_ms / queries * 1000
        events.append(
            {
                "ph": "X",
                "cat": "Node",
                "pid": 0,
                "tid": 0,
                "name": operator.name,
                "ts": start_us,
                "dur": duration_us,
                "args": {
                    "op_name": operator.type,
                    "path": operator.path,
                    "precision": operator.precision,
                    "provider": operator.provider,
                },
            }
        )
        start_us += duration_us
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events, "otherData": {"note": note}}))
