"""A reference that could not be measured: its reason is said, and a reference is never its own provisional best."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tasks.tables import summary as subject
from tests.support import factory
from tests.support.factory import LATENCIES, REFERENCE, changed

KILLED = "killed by SIGKILL, as by the kernel where memory runs out; the same command measures it again"
Tables = dict[str, pl.DataFrame]


def failed(tables: Tables, **where: Any) -> Tables:
    """The tables, had the worker of rows been killed."""
    lost = dict.fromkeys(LATENCIES) | {"status": "failed", "error": KILLED}
    return changed(tables, "benchmarks", {"runtime": "eager"} | where, **lost)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return factory.tables()


def test_a_reference_whose_worker_was_killed_is_the_reason(tables: Tables) -> None:
    found = subject.summarise(failed(tables), factory.study())
    assert found.winner is None and found.reference is None
    assert found.reason.startswith(
        "No winner: the reference for the accuracy rule, an unpruned fp32 model in PyTorch eager,"
    )
    assert f"{REFERENCE} on eager, cpu, batch 1: {KILLED}" in found.reason
    assert "was measured in PyTorch eager" not in found.reason


def test_where_another_model_takes_its_place_that_is_said(tables: Tables) -> None:
    found = subject.summarise(failed(tables, variant=REFERENCE), factory.study())
    assert found.reference is not None and found.reference["variant"].startswith("lenet5/")
    told = (
        f"Another reference might have been taken if it had been measured: {REFERENCE} on eager, cpu, batch 1: "
        f"{KILLED}."
    )
    assert told in found.reason


def test_a_reference_is_never_its_own_provisional_best(tables: Tables) -> None:
    marked = changed(tables, "benchmarks", {"status": "ok"}, conditions="other processes used 60% of the cores")
    found = subject.summarise(marked, factory.study())
    assert found.provisional is not None and found.provisional is not found.reference
    alone = marked | {"benchmarks": marked["benchmarks"].filter(pl.col("variant") == REFERENCE)}
    found = subject.summarise(alone, factory.study())
    assert found.winner is None and found.provisional is None
    assert found.reference is not None and found.reference["role"] == "reference"
    assert found.reason.startswith("No winner yet: ") and "rovisional best" not in found.reason
    assert (
        "No row but the reference itself is accurate enough, and it was measured under bad conditions (other"
        in found.reason
    )
    assert "To confirm it, run the same command with --again benchmark" in found.reason
