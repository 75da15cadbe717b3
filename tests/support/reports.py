"""Makes up a run whose report can be written, and parses the report's page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.report.contents import Contents
from flows.report.page import page
from flows.settings import to_toml
from tasks.tables import summary
from tests.support import factory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Study

RUN_1 = "quickstart-20260101-000000"


@pytest.fixture(scope="module")
def artifacts_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder with the tables, study and environment of one made-up run."""
    out = tmp_path_factory.mktemp("artifacts_of_run")
    tables = factory.tables()
    tables["summary"] = summary.summarise(tables, factory.study()).frame
    for name in ("variants", "evaluations", "benchmarks", "throughputs", "memory", "summary", "datasets"):
        (out / "tables" / name).mkdir(parents=True)
        tables[name].write_parquet(out / "tables" / name / f"{RUN_1}.parquet")
    folder = out / "runs" / RUN_1
    (folder / "why").mkdir(parents=True)
    (folder / "study.toml").write_text(to_toml(factory.study()))
    (folder / "environment.json").write_text('{"cpu": "here"}')
    (folder / "result.json").write_text('{"winner": "lenet5", "reason": "It is fastest."}')
    (folder / "why" / "train.json").write_text('{"task": "train", "outcome": "hit", "differs": [], "at": 1.5}')
    return out


class Page(HTMLParser):
    """Addresses, ids, tags and text of an HTML page. Parsing fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.addresses += [str(attributes[key]) for key in ("href", "src", "xlink:href") if key in attributes]
        self.ids += [str(attributes["id"])] if "id" in attributes else []
        if tag not in ("meta", "wbr", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words += data


def page_of(tables: Mapping[str, Any], study: Study, run: str = "run-1", **others: Any) -> str:
    """Return the report of a run with these tables, as HTML. `others` are further fields of `Contents`."""
    return page(Contents(tables=tables, study=study, environment=others.pop("environment", {}), run=run, **others))
