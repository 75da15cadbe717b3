"""Names and types of each table's columns: all of tasks/tables/schema/ that a stage executes when it writes rows."""

from __future__ import annotations

from tasks.tables.schema import TABLES

TYPES = {name: {key: column.dtype for key, column in table.columns.items()} for name, table in TABLES.items()}
COUNTED = TYPES
"""What a cache key counts of this module, in place of its code and of the modules that it imports."""
