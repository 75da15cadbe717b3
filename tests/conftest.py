"""Shared fixtures: a real Prefect server for the session, the command in its own process, tiny studies."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import Burnish, prefect_server
from tests.support.disks import disk
from tests.support.reports import artifacts_of_run

__all__ = ["artifacts_of_run", "disk"]

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have the most slow tests: none of them is left to run alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _quiet_prefect(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of a test touches the user's Prefect home."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="module", autouse=True)
def _same_environment_after_a_module(_quiet_prefect: None) -> Iterator[None]:
    """What burnish, called in this process, sets in the environment does not reach the tests that follow."""
    yield from _restored()


@pytest.fixture(autouse=True)
def _same_environment_after_a_test() -> Iterator[None]:
    yield from _restored()


def _restored() -> Iterator[None]:
    """Give back the environment, and the log of burnish: Prefect, where it runs in this process, adds its console."""
    before = dict(os.environ)
    log = logging.getLogger("burnish")
    handlers, level, propagates = list(log.handlers), log.level, log.propagate
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    log.handlers[:] = handlers
    log.setLevel(level)
    log.propagate = propagates


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Runtimes opened in this process set PyTorch's threads, and results depend on their number: give them back."""
    # before, too: fixtures of a module have been there first
    _default_threads()
    yield
    _default_threads()


def _default_threads() -> None:
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))


@pytest.fixture(scope="session")
def server(_quiet_prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Prefect server, started for the session."""
    with prefect_server(tmp_path_factory.mktemp("server"), dict(os.environ)) as (url, _):
        yield url


@pytest.fixture
def burnish(server: str, tmp_path: Path) -> Burnish:
    return Burnish(tmp_path / "artifacts", server)
