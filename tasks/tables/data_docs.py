"""Great Expectations' static site, made readable without a network.

Its pages load styles and icons from the network, and its index loads even the list of tables from there. Here those
references are removed, a small style is put in, and the index is written anew. It names every expectation that was not
met, also those that Polars checked (tasks/tables/checks.py).
"""

from __future__ import annotations

import html
import logging
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tasks.tables.checks import Failure

STYLE = r"""<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem; border: 1px solid #8886; }
td { overflow-wrap: break-word; }
ol, ul { padding-left: 1.2rem; }
nav ul { columns: 14rem; }
h4, h5, h6 { font-size: 1.1rem; margin: 1rem 0 .3rem; }
.fa-check-circle::before, .ok::before { content: "\2713 "; color: #18794e; }
.fa-times::before, .fa-exclamation-triangle::before, .bad::before { content: "\2717 "; color: #c62a2f; }
</style>"""
# The footer asks for a newsletter subscription; the filter's buttons do nothing without the scripts.
FROM_NETWORK = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*https?://[^>]*>|<footer\b.*?</footer>"
    r"|<style\b.*?</style>|<label\b.*?</label>|Validation Filter:|<strong>Actions</strong>",
    re.DOTALL,
)


@contextmanager
def whole() -> Iterator[None]:
    """Raise the first error that Great Expectations logs inside the block.

    Where it cannot write a page, it prints a traceback, leaves the page empty and goes on.
    """
    log = logging.getLogger("great_expectations")
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    before = log.propagate
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
    if errors:
        why = errors[0].rpartition("Detailed information follows:")[2].partition("Traceback")[0]
        raise RuntimeError(f"Great Expectations could not write Data Docs: {' '.join(why.split())}")


def make_readable(site: Path, tables: Mapping[str, Path], failures: Sequence[Failure]) -> None:
    """Rewrite the site in the folder `site`: pages that need no network, and an index of all tables and failures.

    Raises
    ------
    RuntimeError
        If a table has no page: Great Expectations logs what goes wrong while it writes one, and goes on.
    """
    for page in site.rglob("*.html"):
        text = FROM_NETWORK.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", STYLE + "</head>", 1), encoding="utf-8")
    # Fonts and pictures that no page shows any more.
    shutil.rmtree(site / "static")
    (site / "index.html").write_text(_index(site, tables, failures), encoding="utf-8")


def _index(site: Path, tables: Mapping[str, Path], failures: Sequence[Failure]) -> str:
    """Return the index page: one row per table with its number of rows, its failures and links to its pages."""
    rows = []
    for name, path in tables.items():
        pages = sorted((site / "validations" / name).rglob("*.html"), key=lambda page: page.parent.name)
        if not pages:
            raise RuntimeError(f"Great Expectations wrote no Data Docs page of table {name}; its log says why")
        links = [f'<a href="{page.relative_to(site).as_posix()}">{page.parent.parent.name}</a>' for page in pages]
        bad = [
            f'<div class="bad">{html.escape(str(failure).removeprefix(f"table {name}: "))}</div>'
            for failure in failures
            if failure.table == name
        ]
        cells = [
            f'<a href="expectations/{name}.html">{name}</a><br>{html.escape(TABLES[name].about)}',
            f"{pl.scan_parquet(path).select(pl.len()).collect().item():,}",
            "".join(bad) or '<div class="ok">every expectation is met</div>',
            "<br>".join(links),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>{STYLE}</head>'
        "<body><h1>Data Docs</h1><p>The run's tables against what is expected of them, by Great Expectations.</p>"
        "<table><tr><th>table</th><th>rows</th><th>result</th><th>validations</th></tr>"
        f"{''.join(rows)}</table></body></html>\n"
    )
