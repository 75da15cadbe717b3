"""Checks by Polars of what Great Expectations, which reads pandas frames, cannot see of a table.

These are exact types, the entries of lists, and whether the rows of a file too large for pandas are unique.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.tables.schema import Column, Table

    BadRows = dict[str, list[tuple[int, Any]]]
    """Expectation in words -> rows that do not meet it: the number of the row, and its value."""

SHOWN = 20
"""A failure names at most this many rows."""
FLOATS = (pl.Float64, pl.List(pl.Float64))
RECURRING_HASHES = 1000
"""Hashes of keys that occur more than once and are looked into: many more than the rows that a failure names."""


@dataclass(frozen=True)
class Failure:
    """An expectation that a table does not meet."""

    table: str
    expectation: str
    """What is expected, in words."""
    rows: tuple[int, ...] = ()
    """Rows that do not meet it, at most `SHOWN` of them. The first row of the file is 0."""
    values: tuple[Any, ...] = ()
    """What these rows hold."""

    def __str__(self) -> str:
        rows = f" (row {', '.join(map(str, self.rows))})" if self.rows else ""
        values = f"; found {', '.join(map(repr, self.values))}" if self.values else ""
        return f"table {self.table}: expected that {self.expectation}{rows}{values}"


def unique_words(table: Table) -> str:
    """Return the expectation that the key of a table is unique, in words."""
    return f"{' × '.join(table.unique)} is unique"


def bounds(column: Column) -> str:
    """Return the range of a column's values, in words."""
    if column.high is not None:
        return f"from {column.low} to {column.high}"
    return f"at least {column.low}" + (" and finite" if column.dtype in FLOATS else "")


def schema(name: str, path: Path) -> list[Failure]:
    """Return failures of columns and their exact types, by the header of the file."""
    declared = {key: column.dtype for key, column in TABLES[name].columns.items()}
    actual = pl.read_parquet_schema(path)
    if list(actual) != list(declared):
        return [Failure(name, "the columns are: " + ", ".join(declared), values=tuple(actual))]
    wrong = [key for key in declared if actual[key] != declared[key]]
    return [Failure(name, f"{key} is of type {declared[key]}", values=(str(actual[key]),)) for key in wrong]


def lists(table: Table, path: Path) -> BadRows:
    """Return rows whose lists have entries that they must not have, or not as many as the table's own count says."""
    bad_rows: BadRows = {}
    for words, keys, is_bad in (*_entry_rules(table), *_length_rules(table)):
        rows = pl.scan_parquet(path).with_row_index("row").filter(is_bad).select("row", *keys).head(SHOWN).collect()
        if len(rows):
            bad_rows[words] = [
                (row, values[0] if len(values) == 1 else tuple(values)) for row, *values in rows.iter_rows()
            ]
    return bad_rows


def _entry_rules(table: Table) -> Iterator[tuple[str, tuple[str, ...], pl.Expr]]:
    """Yield what is expected of the entries of each list: in words, its column, and which rows do not meet it."""
    for key, column in table.columns.items():
        if not isinstance(column.dtype, pl.List):
            continue
        if column.low is None:
            words, is_bad = f"{key} has no null entry", pl.element().is_null()
        else:
            words = f"every entry of {key} is {bounds(column)}"
            is_bad = ~((pl.element() >= column.low) & (pl.element() < float("inf"))).fill_null(False)
        yield words, (key,), pl.col(key).list.eval(is_bad).list.any()


def _length_rules(table: Table) -> Iterator[tuple[str, tuple[str, ...], pl.Expr]]:
    """Yield what is expected of the length of each list: in words, its columns, and which rows do not meet it."""
    for key, count in table.lengths:
        words = f"{key} has as many entries as {count} says"
        count_is_list = isinstance(table.columns[count].dtype, pl.List)
        expected = pl.col(count).list.sum() if count_is_list else pl.col(count)
        yield words, (key, count), pl.col(key).list.len() != expected


def duplicates(table: Table, path: Path) -> BadRows:
    """Return rows whose key another row has too.

    Equal keys have equal hashes, so only the keys of rows whose hash recurs are compared in full.
    """
    key = pl.struct(table.unique)
    rows = pl.scan_parquet(path)
    hashes = rows.select(hash=key.hash()).group_by("hash").len().filter(pl.col("len") > 1)
    recurring = hashes.select("hash").head(RECURRING_HASHES).collect(engine="streaming")["hash"]
    if recurring.is_empty():
        return {}
    twice = (
        rows.select(*table.unique)
        .with_row_index("row")
        .filter(key.hash().is_in(recurring.implode()))
        .group_by(table.unique)
        .agg(pl.col("row").head(SHOWN), pl.len().alias("len"))
        .filter(pl.col("len") > 1)
        .drop("len")
        .explode("row")
        .sort("row")
        .head(SHOWN)
        .collect(engine="streaming")
    )
    bad = [(row, tuple(value)) for *value, row in twice.iter_rows()]
    return {unique_words(table): bad} if bad else {}
