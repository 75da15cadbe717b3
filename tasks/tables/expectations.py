"""What is expected of each table, checked by Great Expectations and shown on a site of its own."""

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


BATCH_ROWS = 250_000


def _great_expectations() -> Any:
    # telemetry, on by default where a version has it
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # it tells of every function that it registers
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations

    return great_expectations


def expectations(name: str, *, empty: bool = False) -> gx.ExpectationSuite:
    """The Great Expectations suite of a table, from its declaration; of one without rows, what is expected of its
    columns.

    Numbers are finite. Uniqueness is left out of tables that are checked by batches, and what lists hold of all: pandas
    cannot say either; `Checks` asks Polars.
    """
    gx = _great_expectations()
    from great_expectations import expectations as gxe
    from great_expectations.expectations.row_conditions import Column as Where

    table = TABLES[name]
    suite: list[Any] = []

    def expect(words: str, kind: Any, **what: Any) -> None:
        if not empty or kind is gxe.ExpectTableColumnsToMatchOrderedList:
            suite.append(kind(description=words, **what))

    in_order = list(table.columns)
    # types: `checks.schema`
    typed = ", ".join(f"{key} ({column.dtype})" for key, column in table.columns.items())
    expect(f"the columns are: {typed}", gxe.ExpectTableColumnsToMatchOrderedList, column_list=in_order)
    for key, column in table.columns.items():
        if not column.nullable:
            expect(f"{key} is never null", gxe.ExpectColumnValuesToNotBeNull, column=key)
        if column.values:
            words, values = f"{key} is one of {', '.join(column.values)}", list(column.values)
            expect(words, gxe.ExpectColumnValuesToBeInSet, column=key, value_set=values)
        if column.dtype in (pl.Int64, pl.Float64) and column.low is not None:
            words = f"{key} is {checks.bounds(column)}"
            finite = column.high is None and column.dtype == pl.Float64
            high = float("inf") if finite else column.high
            between = {"min_value": column.low, "max_value": high, "strict_max": finite}
            expect(words, gxe.ExpectColumnValuesToBeBetween, column=key, **between)
    for small, large in (pair for chain in table.ordered for pair in pairwise(chain)):
        pair = {"column_A": large, "column_B": small, "or_equal": True, "ignore_row_if": "either_value_is_missing"}
        expect(f"{small} is at most {large}", gxe.ExpectColumnPairValuesAToBeGreaterThanB, **pair)
    if len(table.unique) == 1 and not table.checked_by_batches:
        expect(checks.unique_words(table), gxe.ExpectColumnValuesToBeUnique, column=table.unique[0])
    elif table.unique and not table.checked_by_batches:
        together = {"column_list": list(table.unique), "ignore_row_if": "never"}
        expect(checks.unique_words(table), gxe.ExpectCompoundColumnsToBeUnique, **together)
    if "status" in table.columns:
        ok, not_ok = Where("status") == "ok", Where("status") != "ok"
        given = [(key, "ok", ok, not_ok) for key in table.given_when_ok] + [("error", "not ok", not_ok, ok)]
        for key, status, here, elsewhere in given:
            words = f"{key} is given exactly where status is {status}"
            expect(words, gxe.ExpectColumnValuesToNotBeNull, column=key, row_condition=here)
            expect(words, gxe.ExpectColumnValuesToBeNull, column=key, row_condition=elsewhere)
    return gx.ExpectationSuite(name, expectations=suite, notes=table.about)


class Checks:
    """Validations of tables against what they declare, and the Data Docs site of all of them.

    Tables of many rows (`checked_by_batches`) are validated in batches of 250,000 rows, so that memory stays bounded;
    the uniqueness of their rows, which a batch cannot see, is a streaming aggregate of the whole file.
    """

    def __init__(self) -> None:
        gx = _great_expectations()
        from great_expectations.data_context.types import base

        # the context's own defaults add a second site, in a temporary folder
        stores = base.InMemoryStoreBackendDefaults()
        quiet = base.ProgressBarsConfig(globally=False)
        config = base.DataContextConfig(store_backend_defaults=stores, progress_bars=quiet, analytics_enabled=False)
        self._context = gx.get_context(mode="ephemeral", project_config=config)
        self._source = self._context.data_sources.add_pandas("tables")
        self.tables: dict[str, Path] = {}
        self.failures: list[Failure] = []
        """Every expectation that was not met."""

    def validate(self, tables: Mapping[str, Path]) -> list[Failure]:
        """Expectations that Parquet files, by the name of their table, do not meet; empty if all are met.

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
        """Write the Data Docs site of what was validated (index.html; readable without a network)."""
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
    gx, table = _great_expectations(), TABLES[name]
    misshapen = checks.schema(name, path)
    found: checks.Found = {}
    for start, rows in _batches(path, table.checked_by_batches):
        identity = gx.RunIdentifier(run_name=f"rows-from-{start}", run_time=datetime.now(UTC))
        run = partial(definition.run, batch_parameters={"dataframe": _pandas(rows)}, run_id=identity)
        result = run(result_format={"result_format": "BASIC"})
        # SUMMARY, which has the rows, takes twice as long; it takes BASIC's place in the site
        if not result.success:
            result = run(result_format={"result_format": "SUMMARY", "partial_unexpected_count": SHOWN})
        for one in result.results:
            if one.success:
                continue
            words = str(one.expectation_config and one.expectation_config.description)
            if "partial_unexpected_index_list" in one.result:
                numbers, values = one.result["partial_unexpected_index_list"], one.result["partial_unexpected_list"]
                bad = [(start + row, _plain(value)) for row, value in zip(numbers, values, strict=True)]
                found.setdefault(words, []).extend(bad)
            elif not misshapen:
                # a missing column or a wrong type makes others raise: `checks.schema` has said it
                raise RuntimeError(f"table {name}: could not check that {words}: {one.exception_info}")
    if not misshapen:
        found |= checks.lists(table, path)
        if table.checked_by_batches:
            found |= checks.duplicates(table, path)
    failures = list(misshapen)
    for words, rows_found in found.items():
        first = sorted(rows_found, key=itemgetter(0))[:SHOWN]
        failures.append(Failure(name, words, tuple(row for row, _ in first), tuple(value for _, value in first)))
    return failures


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows  # type: ignore[no-any-return]


def _batches(path: Path, many: bool) -> Iterator[tuple[int, pa.Table]]:
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
    """Arrow-backed columns: integers keep their type beside nulls, and NaN is not taken for null."""
    import pandas as pd

    return rows.to_pandas(types_mapper=pd.ArrowDtype)


def _plain(value: Any) -> Any:
    import pandas as pd

    # the columns of a key
    if isinstance(value, dict):
        return tuple(map(_plain, value.values()))
    # a pair: (larger, smaller) in `expectations`, the other way round in its words
    if isinstance(value, tuple):
        return tuple(map(_plain, reversed(value)))
    return None if value is pd.NA else value
