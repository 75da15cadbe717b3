"""Makes up the tables of a run, so that a report can be written of it, and parses the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.report.page import page
from flows.report.sections import Contents
from flows.settings import to_toml
from tasks.tables import summary
from tests.support import factory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import Study

RUN_1 = "quickstart-20260101-000000"


@pytest.fixture(scope="module")
def artifacts_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder whose tables, study and environment a report is written from."""
    out = tmp_path_factory.mktemp("artifacts_of_run")
    made = factory.tables()
    made["summary"] = summary.summarise(made, factory.study()).frame
    for name in ("variants", "evaluations", "benchmarks", "throughputs", "memory", "summary", "datasets"):
        (out / "tables" / name).mkdir(parents=True)
        made[name].write_parquet(out / "tables" / name / f"{RUN_1}.parquet")
    folder = out / "runs" / RUN_1
    (folder / "why").mkdir(parents=True)
    (folder / "study.toml").write_text(to_toml(factory.study()))
    (folder / "environment.json").write_text('{"cpu": "here"}')
    (folder / "result.json").write_text('{"winner": "lenet5", "reason": "It is fastest."}')
    (folder / "why" / "train.json").write_text('{"task": "train", "outcome": "hit", "differs": [], "at": 1.5}')
    return out


class Page(HTMLParser):
    """Addresses, ids, headings and text of a page; fails on tags that are not closed in order."""

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
        found = dict(attrs)
        self.tags.append((tag, found))
        self.addresses += [str(found[key]) for key in ("href", "src", "xlink:href") if key in found]
        self.ids += [str(found["id"])] if "id" in found else []
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
    """The report of a run that has these tables, as HTML; `others` are further `Contents`."""
    return page(Contents(tables=tables, study=study, environment=others.pop("environment", {}), run=run, **others))
