"""What a column and a table declare of themselves, and short ways to declare the common types of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Column:
    """A column of a table: its type, whether it may be null, and which values it may have."""

    dtype: Any
    about: str
    """What the column holds, in words."""
    nullable: bool = False
    low: float | None = None
    """The smallest value allowed. For a list, the smallest entry."""
    high: float | None = None
    """The largest value allowed."""
    values: tuple[str, ...] | None = None
    """The only values allowed."""


@dataclass(frozen=True)
class Table:
    """A table: its columns and how they relate to each other."""

    about: str
    """What one row is, in words."""
    columns: dict[str, Column]
    unique: tuple[str, ...] = ()
    """The key: no two rows have the same values in all of these columns."""
    ordered: tuple[tuple[str, ...], ...] = ()
    """Chains of columns (a, b, ...). In each row a <= b, b <= ... wherever both values are given."""
    given_when_ok: tuple[str, ...] = ()
    """Columns that have a value exactly where `status` is ok."""
    lengths: tuple[tuple[str, str], ...] = ()
    """Pairs of columns (list, count). In each row with both, the list has as many entries as the count says."""
    checked_by_batches: bool = False
    """Whether the table has so many rows that they are validated in batches."""


def text(about: str, *values: str, null: bool = False) -> Column:
    """Return a text column. Where `values` are named, it may have no others."""
    return Column(pl.String, about, null, values=values or None)


def count(about: str, null: bool = False, low: int = 0) -> Column:
    """Return a column of whole numbers, by default not negative."""
    return Column(pl.Int64, about, null, low=low)


def number(about: str, low: float | None = 0, high: float | None = None, null: bool = False) -> Column:
    """Return a column of numbers, by default not negative."""
    return Column(pl.Float64, about, null, low=low, high=high)


def share(about: str, null: bool = False) -> Column:
    """Return a column of numbers from 0 to 1."""
    return number(about, 0, 1, null)
