"""Fixtures: a deployed classifier, and a server of it that has little memory and little time."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tasks.caching.work import Work
from tasks.records import Data
from tests.support.digits import digits
from tests.support.servers import FinishedRun, Server, running_with_limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEBIBYTE = 1 << 20
FREE_MEMORY = f"quota.memory_available={300 * MEBIBYTE}"
"""Memory that a server is made to see as free, because not every machine lets a test make a control group."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployed LeNet-5 of scikit-learn's digits."""
    out = tmp_path_factory.mktemp("out")
    work = Work.at(out, "deploy")
    return FinishedRun(out, work, digits(work, 60), Data(source="digits")).deploy(
        tmp_path_factory.mktemp("to") / "served"
    )


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server that sees 300 MiB of free memory, and gives each part of a request a few seconds."""
    limits = (
        FREE_MEMORY,
        "connections.HEADER_SECONDS=1",
        "connections.REQUEST_SECONDS=20",
        "decoders.SECONDS=5",
        "bodies.BODY_SECONDS=1.5",
        "app.WAIT_SECONDS=3",
    )
    with _running_without_traceback(folder, *limits) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def patient_server(folder: Path) -> Iterator[Server]:
    """A server that sees 300 MiB of free memory, and gives each request as much time as a deployed one.

    Clients that all start at once are slow themselves: on a busy machine, some of them need more than the second that
    `server` gives them to send the head of their requests.
    """
    with _running_without_traceback(folder, FREE_MEMORY) as running_server:
        yield running_server


@contextmanager
def _running_without_traceback(folder: Path, *limits: str) -> Iterator[Server]:
    """Run a server, and check at the end that nothing unforeseen happened in it."""
    with running_with_limits(folder, *limits) as running_server:
        yield running_server
    assert "Traceback" not in running_server.output, running_server.output
    assert "Exception" not in running_server.output, running_server.output


@pytest.fixture(scope="module")
def digit() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()
