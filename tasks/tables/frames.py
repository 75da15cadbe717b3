"""Rows of plain Python values as a typed frame of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tasks.tables.columns import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def frame(name: str, rows: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    """Return rows as a frame with the table's columns and types. Columns that a row leaves out are null.

    Raises
    ------
    ValueError
        If a row has a column that the table has not.
    """
    types = TYPES[name]
    rows = list(rows)
    unknown = {key for row in rows for key in row} - types.keys()
    if unknown:
        raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    return pl.DataFrame({key: [row.get(key) for row in rows] for key in types}, schema=types)
