"""Check each table against what its declaration expects, by Great Expectations, and show the outcome in Data Docs."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.machine import files
from tasks.tables import checks, data_docs
from tasks.tables.checks import SHOWN, Failure
from tasks.tables.schema import TABLES, declared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import great_expectations as gx
    import pyarrow as pa

    from tasks.tables.schema import Table


BATCH_ROWS = 250_000
"""Rows of a large table that are validated at a time, so that memory stays bounded."""


def _great_expectations() -> Any:
    # Telemetry is on by default in the versions that have it.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # It logs every function that it registers.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations

    return great_expectations


def expectations(name: str, *, empty: bool = False) -> gx.ExpectationSuite:
    """Return the Great Expectations suite of a table, made from its declaration.

    Numbers are finite. What pandas cannot see is left out, and checked by Polars (tasks/tables/checks.py): the entries
    of lists, and whether rows are unique in tables that are checked by batches.

    Parameters
    ----------
    empty
        Whether the table has no rows. Then only its columns are checked.
    """
    gx = _great_expectations()
    table = TABLES[name]
    suite = _columns_expected(table)
    if not empty:
        suite += [*_values_expected(table), *_relations_expected(table)]
    return gx.ExpectationSuite(name, expectations=suite, notes=table.about)


def _columns_expected(table: Table) -> list[Any]:
    """Expect all columns in their order. Their types are checked by `checks.schema`."""
    from great_expectations import expectations as gxe

    typed = ", ".join(f"{key} ({column.dtype})" for key, column in table.columns.items())
    words = f"the columns are: {typed}"
    return [gxe.ExpectTableColumnsToMatchOrderedList(description=words, column_list=list(table.columns))]


def _values_expected(table: Table) -> Iterator[Any]:
    """Expect of each column that it is not null, one of its values, or in its range, as declared."""
    from great_expectations import expectations as gxe

    for key, column in table.columns.items():
        if not column.nullable:
            yield gxe.ExpectColumnValuesToNotBeNull(description=f"{key} is never null", column=key)
        if column.values:
            words = f"{key} is one of {', '.join(column.values)}"
            yield gxe.ExpectColumnValuesToBeInSet(description=words, column=key, value_set=list(column.values))
        if column.dtype in (pl.Int64, pl.Float64) and column.low is not None:
            finite = column.high is None and column.dtype == pl.Float64
            yield gxe.ExpectColumnValuesToBeBetween(
                description=f"{key} is {checks.bounds(column)}",
                column=key,
                min_value=column.low,
                max_value=float("inf") if finite else column.high,
                strict_max=finite,
            )


def _relations_expected(table: Table) -> Iterator[Any]:
    """Expect that columns are in order, that the key is unique, and that values are given as the status says."""
    from great_expectations import expectations as gxe
    from great_expectations.expectations.row_conditions import Column as Where

    for small, large in (pair for chain in table.ordered for pair in pairwise(chain)):
        yield gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            description=f"{small} is at most {large}",
            column_A=large,
            column_B=small,
            or_equal=True,
            ignore_row_if="either_value_is_missing",
        )
    if not table.checked_by_batches:
        words = checks.unique_words(table)
        if len(table.unique) == 1:
            yield gxe.ExpectColumnValuesToBeUnique(description=words, column=table.unique[0])
        elif table.unique:
            together = list(table.unique)
            yield gxe.ExpectCompoundColumnsToBeUnique(description=words, column_list=together, ignore_row_if="never")
    if "status" in table.columns:
        ok, not_ok = Where("status") == "ok", Where("status") != "ok"
        given = [(key, "ok", ok, not_ok) for key in table.given_when_ok] + [("error", "not ok", not_ok, ok)]
        for key, status, where_given, elsewhere in given:
            words = f"{key} is given exactly where status is {status}"
            yield gxe.ExpectColumnValuesToNotBeNull(description=words, column=key, row_condition=where_given)
            yield gxe.ExpectColumnValuesToBeNull(description=words, column=key, row_condition=elsewhere)


class Checks:
    """Validations of tables against their declarations, and the Data Docs site of all of them.

    Tables of many rows (`checked_by_batches`) are validated in batches of `BATCH_ROWS`, so that memory stays bounded.
    Whether their rows are unique, which a batch cannot see, Polars finds out by streaming the whole file.
    """

    def __init__(self) -> None:
        gx = _great_expectations()
        from great_expectations.data_context.types import base

        # By its own defaults the context would write a second site, in a temporary folder.
        stores = base.InMemoryStoreBackendDefaults()
        quiet = base.ProgressBarsConfig(globally=False)
        config = base.DataContextConfig(store_backend_defaults=stores, progress_bars=quiet, analytics_enabled=False)
        self._context = gx.get_context(mode="ephemeral", project_config=config)
        self._source = self._context.data_sources.add_pandas("tables")
        self.tables: dict[str, Path] = {}
        """Name of each table that was validated -> its file."""
        self.failures: list[Failure] = []
        """Every expectation that was not met."""

    def validate(self, tables: Mapping[str, Path]) -> list[Failure]:
        """Validate tables, and return the expectations that they do not meet.

        Parameters
        ----------
        tables
            Name of a table -> its Parquet file.

        Raises
        ------
        ValueError
            If there is no table of a name.
        """
        for name in tables:
            declared(name)
        failures = []
        for name, path in tables.items():
            suite = self._context.suites.add(expectations(name, empty=_rows(path) == 0))
            data = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("rows")
            definition = _great_expectations().ValidationDefinition(name=name, data=data, suite=suite)
            failures += _validate(name, path, self._context.validation_definitions.add(definition))
        self.tables |= tables
        self.failures += failures
        return failures

    def build_docs(self, folder: Path) -> None:
        """Write the Data Docs site of the tables that were validated. It is readable without a network."""
        with files.beside(folder) as scratch:
            site = scratch / "site"
            backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
            config = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": backend}
            self._context.add_data_docs_site("tables", config)
            with data_docs.whole():
                self._context.build_data_docs(build_index=False)
            in_order = {name: self.tables[name] for name in TABLES if name in self.tables}
            data_docs.make_readable(site, in_order, self.failures)
            files.replace(site, folder)


def _validate(name: str, path: Path, definition: gx.ValidationDefinition) -> list[Failure]:
    """Return the expectations that the file of a table does not meet, whoever checks them."""
    table = TABLES[name]
    misshapen = checks.schema(name, path)
    bad_rows = _bad_rows(name, path, definition, misshapen=bool(misshapen))
    if not misshapen:
        bad_rows |= checks.lists(table, path)
        if table.checked_by_batches:
            bad_rows |= checks.duplicates(table, path)
    failures = list(misshapen)
    for words, rows in bad_rows.items():
        first = sorted(rows, key=itemgetter(0))[:SHOWN]
        failures.append(Failure(name, words, tuple(row for row, _ in first), tuple(value for _, value in first)))
    return failures


def _bad_rows(name: str, path: Path, definition: gx.ValidationDefinition, *, misshapen: bool) -> checks.BadRows:
    """Return the rows that do not meet an expectation of Great Expectations, batch after batch.

    Raises
    ------
    RuntimeError
        If an expectation could not be checked, although the table is not `misshapen`: it has the right columns.
    """
    bad_rows: checks.BadRows = {}
    for start, rows in _batches(path, TABLES[name].checked_by_batches):
        for outcome in _run(definition, rows, start).results:
            if outcome.success:
                continue
            words = str(outcome.expectation_config and outcome.expectation_config.description)
            if "partial_unexpected_index_list" in outcome.result:
                numbers = outcome.result["partial_unexpected_index_list"]
                values = outcome.result["partial_unexpected_list"]
                bad = [(start + row, _plain(value)) for row, value in zip(numbers, values, strict=True)]
                bad_rows.setdefault(words, []).extend(bad)
            elif not misshapen:
                # A missing column or a wrong type, which `checks.schema` reports, makes other expectations raise.
                raise RuntimeError(f"table {name}: could not check that {words}: {outcome.exception_info}")
    return bad_rows


def _run(definition: gx.ValidationDefinition, rows: pa.Table, start: int) -> Any:
    """Validate a batch whose first row is row `start` of the file."""
    gx = _great_expectations()
    identity = gx.RunIdentifier(run_name=f"rows-from-{start}", run_time=datetime.now(UTC))
    run = partial(definition.run, batch_parameters={"dataframe": _pandas(rows)}, run_id=identity)
    result = run(result_format={"result_format": "BASIC"})
    if result.success:
        return result
    # SUMMARY, which says which rows are bad, takes twice as long. It replaces BASIC in the site.
    return run(result_format={"result_format": "SUMMARY", "partial_unexpected_count": SHOWN})


def _rows(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows  # type: ignore[no-any-return]


def _batches(path: Path, many: bool) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows of a file, each time with the number of the first one; in batches where there are `many`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if not many or file.metadata.num_rows == 0:
            yield 0, file.read()
            return
        start = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows


def _pandas(rows: pa.Table) -> Any:
    """Return a frame of Arrow-backed columns: integers keep their type beside nulls, and NaN is not taken for null."""
    import pandas as pd

    return rows.to_pandas(types_mapper=pd.ArrowDtype)


def _plain(value: Any) -> Any:
    """Return a bad value that Great Expectations reports, as plain Python values in the order of the expectation."""
    import pandas as pd

    # The columns of a key that is not unique.
    if isinstance(value, dict):
        return tuple(map(_plain, value.values()))
    # A pair of columns: `_relations_expected` names the larger first, its words name the smaller first.
    if isinstance(value, tuple):
        return tuple(map(_plain, reversed(value)))
    return None if value is pd.NA else value
