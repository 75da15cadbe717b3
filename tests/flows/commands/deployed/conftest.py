"""Fixtures: a deployed classifier, and a server of it that has little memory and little time."""

from __future__ import annotations

import io
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
# Free memory, in bytes, that the server is made to see, because not every machine lets a test make a control group.
FREE_MEMORY = 300 * MEBIBYTE


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
        f"quota.memory_available={FREE_MEMORY}",
        "connections.HEADER_SECONDS=1",
        "connections.REQUEST_SECONDS=20",
        "decoders.SECONDS=5",
        "app.BODY_SECONDS=1.5",
        "app.WAIT_SECONDS=3",
    )
    with running_with_limits(folder, *limits) as running_server:
        yield running_server
    assert "Traceback" not in running_server.output
    assert "Exception" not in running_server.output


@pytest.fixture(scope="module")
def digit() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()
