"""Code that is edited while a run is at work: results of the old code never stand under the new code's key."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import tasks.measure.seeds
from tasks.caching import keys, results
from tests.support.one_stage import ask

MODULE = "tasks.measure.seeds"
PATH = Path(tasks.measure.seeds.__file__)


def as_if_edited_since(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Make a module's file appear to have had the text `before` when this process began."""
    monkeypatch.setitem(keys.AT_START, PATH, before)
    keys._tree.cache_clear()
    keys._source.cache_clear()


@pytest.fixture(autouse=True)
def _caches_of_keys():
    yield
    keys._tree.cache_clear()
    keys._source.cache_clear()


def test_the_key_is_made_of_the_code_with_which_the_process_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = keys.sources(MODULE)[MODULE]
    as_if_edited_since(monkeypatch, PATH.read_text() + "\nADDED = 1\n")
    assert keys.sources(MODULE)[MODULE] != now
    assert keys.edited([MODULE, "tasks.measure.clock"]) == [MODULE]


def test_an_edited_comment_is_no_edited_code(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_edited_since(monkeypatch, PATH.read_text() + "\n# a comment\n")
    assert keys.edited([MODULE]) == []


def test_a_result_that_was_computed_while_code_was_edited_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = "tests.support.one_stage"
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "burnish"):
        patched.setattr(results, "edited", lambda modules: [name for name in modules if name == stage])
        assert ask(tmp_path) == "computed"
    assert "the next run computes it again, because code was edited meanwhile: " + stage in caplog.text
    assert ask(tmp_path) == "computed"
    assert ask(tmp_path) == "hit"
