"""What pandas cannot see of a table, by Polars: exact types, lists, and whether rows of a whole file are unique."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.tables.schema import Column, Table

    # expectation in words -> rows that do not meet it: number, value
    Found = dict[str, list[tuple[int, Any]]]

SHOWN = 20
FLOATS = (pl.Float64, pl.List(pl.Float64))


@dataclass(frozen=True)
class Failure:
    """An expectation that a table does not meet: at most 20 of its rows (from 0, in the file) and what stands there."""

    table: str
    expectation: str
    rows: tuple[int, ...] = ()
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        where = f" (row {', '.join(map(str, self.rows))})" if self.rows else ""
        found = f"; found {', '.join(map(repr, self.values))}" if self.values else ""
        return f"table {self.table}: expected that {self.expectation}{where}{found}"


def unique_words(table: Table) -> str:
    """The expectation that the key of a table is unique, in words."""
    return f"{' × '.join(table.unique)} is unique"


def bounds(column: Column) -> str:
    """The range of a column, in words."""
    if column.high is not None:
        return f"from {column.low} to {column.high}"
    return f"at least {column.low}" + (" and finite" if column.dtype in FLOATS else "")


def schema(name: str, path: Path) -> list[Failure]:
    """Columns and exact types, of which pandas knows too little, from the file's header."""
    declared = {key: column.dtype for key, column in TABLES[name].columns.items()}
    there = pl.read_parquet_schema(path)
    if list(there) != list(declared):
        return [Failure(name, "the columns are: " + ", ".join(declared), values=tuple(there))]
    wrong = [key for key in declared if there[key] != declared[key]]
    return [Failure(name, f"{key} is of type {declared[key]}", values=(str(there[key]),)) for key in wrong]


def lists(table: Table, path: Path) -> Found:
    """Rows whose lists hold what they must not, or are not as long as the table's own count."""
    rules: list[tuple[str, tuple[str, ...], pl.Expr]] = []
    for key, column in table.columns.items():
        if isinstance(column.dtype, pl.List):
            bad, words = pl.element().is_null(), f"{key} has no null entry"
            if column.low is not None:
                bad = ~((pl.element() >= column.low) & (pl.element() < float("inf"))).fill_null(False)
                words = f"every entry of {key} is {bounds(column)}"
            rules.append((words, (key,), pl.col(key).list.eval(bad).list.any()))
    for key, count in table.lengths:
        words = f"{key} has as many entries as {count} says"
        said = pl.col(count).list.sum() if isinstance(table.columns[count].dtype, pl.List) else pl.col(count)
        rules.append((words, (key, count), pl.col(key).list.len() != said))
    found: Found = {}
    for words, keys, bad in rules:
        rows = pl.scan_parquet(path).with_row_index("row").filter(bad).select("row", *keys).head(SHOWN).collect()
        if len(rows):
            found[words] = [(row, value[0] if len(value) == 1 else tuple(value)) for row, *value in rows.iter_rows()]
    return found


def duplicates(table: Table, path: Path) -> Found:
    """Rows that stand twice. Equal keys have equal hashes, so only rows whose hash recurs are compared in full."""
    key = pl.struct(table.unique)
    rows = pl.scan_parquet(path)
    hashes = rows.select(hash=key.hash()).group_by("hash").len().filter(pl.col("len") > 1)
    recurring = hashes.select("hash").head(1000).collect(engine="streaming")["hash"]
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
