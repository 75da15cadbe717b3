"""Rows of plain Python values as a typed frame of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def frame(name: str, rows: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a frame with the table's columns and types; columns a row leaves out are null.

    Raises
    ------
    ValueError
        If a row has a column that the table has not.
    """
    columns = TABLES[name].columns
    rows = list(rows)
    unknown = {key for row in rows for key in row} - columns.keys()
    if unknown:
        raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    data = {key: [row.get(key) for row in rows] for key in columns}
    return pl.DataFrame(data, schema={key: column.dtype for key, column in columns.items()})
