"""Fixtures for all tests: a real Prefect server, the `burnish` command, and what keeps tests from changing one another.

The environment, burnish's log and PyTorch's number of threads are restored after each test.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from tests.support.command import SHORT, Burnish, prefect_server
from tests.support.disks import disk
from tests.support.prefect_home import prefect_home
from tests.support.reports import artifacts_of_run
from tests.support.restored import environment_and_log_restored
from tests.support.shared import made_once

__all__ = ["artifacts_of_run", "disk"]

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have the most slow tests, so that no such file runs alone at the end."""
    slow_tests = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow_tests[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Say what ended a process of pytest-xdist that crashed: a signal, an exit code, or perhaps want of memory."""
    if error is None:
        return
    process = node.gateway._io.popen
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    print(
        f"\n{node.gateway.id} ended with {process.wait(60)} (below 0: a signal); the kernel has ended "
        f"{counts.get('oom_kill', '?')} processes for want of memory since it started",
        file=sys.stderr,
    )


@pytest.fixture(scope="session", autouse=True)
def _private_prefect_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the tests a Prefect home of their own, so that they never touch the user's."""
    os.environ["PREFECT_HOME"] = str(prefect_home(tmp_path_factory.mktemp("prefect")))


@pytest.fixture(autouse=True)
def _crashes_reported(pytestconfig: pytest.Config) -> None:
    """Have a crash write its stack where pytest shows it; a library may have made it go to the captured output."""
    faulthandler.enable(pytestconfig.stash[fault_handler_stderr_fd_key])


@pytest.fixture(scope="module", autouse=True)
def _environment_restored_after_each_module(_private_prefect_home: None) -> Iterator[None]:
    """Restore what a module's fixtures change when they call burnish in this process."""
    with environment_and_log_restored():
        yield


@pytest.fixture(autouse=True)
def _environment_restored_after_each_test() -> Iterator[None]:
    with environment_and_log_restored():
        yield


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads, which runtimes opened in this process set and on which results depend."""
    # A module's fixtures ran before the first test and may have set it too.
    _restore_threads()
    yield
    _restore_threads()


def _restore_threads() -> None:
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))


@pytest.fixture(scope="session")
def server(_private_prefect_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Prefect server, started for the session."""
    with prefect_server(tmp_path_factory.mktemp("server"), dict(os.environ)) as (url, _):
        yield url


@pytest.fixture(scope="session")
def short_study(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts folder of a finished run of `SHORT`, which all test processes share and no test changes.

    A test that is not about computing a stage begins with a copy of its results (`copy_results`).
    """
    return made_once(tmp_path_factory, "short-study", lambda folder: Burnish(folder, server).run(*SHORT))


@pytest.fixture
def burnish(server: str, tmp_path: Path) -> Burnish:
    return Burnish(tmp_path / "artifacts", server)
