"""The summary says why a reference could not be measured, and a reference is never the provisional best."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tasks.tables import summary as subject
from tests.support import factory
from tests.support.factory import LATENCIES, REFERENCE, changed

KILLED = "killed by SIGKILL, as by the kernel where memory runs out; the same command measures it again"
Tables = dict[str, pl.DataFrame]


def with_killed_workers(tables: Tables, **where: Any) -> Tables:
    """Return the tables had the workers been killed that measured the matching rows in eager PyTorch."""
    failure = dict.fromkeys(LATENCIES) | {"status": "failed", "error": KILLED}
    return changed(tables, "benchmarks", {"runtime": "eager"} | where, **failure)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return factory.tables()


def test_without_a_winner_the_summary_gives_the_error_of_the_killed_reference(tables: Tables) -> None:
    result = subject.summarise(with_killed_workers(tables), factory.study())
    assert result.winner is None and result.reference is None
    assert result.reason.startswith(
        "No winner: the reference for the accuracy rule, an unpruned fp32 model in PyTorch eager,"
    )
    assert f"{REFERENCE} on eager, cpu, batch 1: {KILLED}" in result.reason
    assert "was measured in PyTorch eager" not in result.reason


def test_the_summary_says_that_another_reference_might_have_been_taken(tables: Tables) -> None:
    result = subject.summarise(with_killed_workers(tables, variant=REFERENCE), factory.study())
    assert result.reference is not None and result.reference["variant"].startswith("lenet5/")
    sentence = (
        f"Another reference might have been taken if it had been measured: {REFERENCE} on eager, cpu, batch 1: "
        f"{KILLED}."
    )
    assert sentence in result.reason


def test_a_reference_is_never_the_provisional_best(tables: Tables) -> None:
    marked_tables = changed(tables, "benchmarks", {"status": "ok"}, conditions="other processes used 60% of the cores")
    result = subject.summarise(marked_tables, factory.study())
    assert result.provisional is not None and result.provisional is not result.reference
    only_reference = marked_tables | {"benchmarks": marked_tables["benchmarks"].filter(pl.col("variant") == REFERENCE)}
    result = subject.summarise(only_reference, factory.study())
    assert result.winner is None and result.provisional is None
    assert result.reference is not None and result.reference["role"] == "reference"
    assert result.reason.startswith("No winner yet: ") and "rovisional best" not in result.reason
    assert "No other row that is accurate enough has a smaller median than the reference" in result.reason
    assert "To confirm it, run the same command with --again benchmark" in result.reason


def test_a_marked_row_that_is_slower_than_the_reference_is_no_provisional_best(tables: Tables) -> None:
    marked_tables = changed(tables, "benchmarks", {"status": "ok"}, conditions="other processes used 60% of the cores")
    reference = subject.summarise(marked_tables, factory.study()).reference
    assert reference is not None
    of_reference = pl.col("variant") == reference["variant"]
    in_runtime = pl.col("runtime") == reference["runtime"]
    slow = pl.when(of_reference & in_runtime).then(pl.col("latency_median_ms")).otherwise(1e6)
    slower = marked_tables | {"benchmarks": marked_tables["benchmarks"].with_columns(latency_median_ms=slow)}
    result = subject.summarise(slower, factory.study())
    assert result.winner is None and result.provisional is None
    assert "No other row that is accurate enough has a smaller median than the reference" in result.reason
