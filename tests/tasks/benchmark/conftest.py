"""Fixtures of the benchmark's tests: a work folder, a few digits, and variants for a runtime with chosen faults."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tasks.runtimes
from tasks.caching.work import Work
from tasks.records import Prepared, Variant
from tests.support.benchmarks import PLUGINS
from tests.support.digits import digits
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path)


@pytest.fixture
def data(work: Work) -> Prepared:
    return digits(work, 100)


@pytest.fixture
def fake_variant(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Variant]:
    """Return a function that stores a variant for the fake runtime, which this process and the workers can load."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, PLUGINS))))
    monkeypatch.setattr(tasks.runtimes, "__path__", [*tasks.runtimes.__path__, str(PLUGINS)])
    monkeypatch.delitem(sys.modules, "tasks.runtimes.fake", raising=False)

    def variant(name: str, parent: str | None = None, benchmark: bool = True, **spec: Any) -> Variant:
        with work.store.temporary() as folder:
            (folder / "model.fake").write_text(json.dumps({"lock": str(tmp_path / "lock"), "name": name, **spec}))
            artifact = work.store.put(folder / "model.fake", "fake")
        return Variant(
            name=name,
            model="lenet5",
            stage="export",
            parent=parent,
            format="fake",
            artifact=artifact,
            benchmark=benchmark,
        )

    return variant
