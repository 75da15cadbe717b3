"""Every table once: its columns, their types and units (in their names), and what is expected of them.

The tables are declared in one file per subject. tasks/tables/ reads, checks and publishes them by these declarations.
"""

from __future__ import annotations

from tasks.tables.schema import conditions, data, measuring, result, search, training, variants
from tasks.tables.schema.column import Column, Table

__all__ = ["OF_A_STUDY", "TABLES", "Column", "Table", "declared"]

TABLES: dict[str, Table] = {
    **data.TABLES,
    **training.TABLES,
    **variants.TABLES,
    **search.TABLES,
    **measuring.TABLES,
    **conditions.TABLES,
    **result.TABLES,
}
"""Name of a table -> its declaration, in the order in which the data docs list them."""
OF_A_STUDY = tuple(name for name in TABLES if name != "comparisons")
"""Tables that a run of a study writes. `comparisons` is written by `burnish bench` alone."""


def declared(name: str) -> Table:
    """Return the declaration of a table.

    Raises
    ------
    ValueError
        If there is no table of this name.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; tables: {', '.join(TABLES)}")
    return TABLES[name]
