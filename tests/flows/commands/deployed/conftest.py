"""A deployed classifier, and a server of it that is told of little memory and little time."""

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
# free memory as it is told to the server where no control group can be made
SMALL = 300 * MEBIBYTE


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
    """It is told that 300 MiB are free, and that requests may take a second or two."""
    limits = (
        f"quota.memory_available={SMALL}",
        "connections.HEADER_SECONDS=1",
        "connections.REQUEST_SECONDS=20",
        "decoders.SECONDS=5",
        "app.BODY_SECONDS=1.5",
        "app.WAIT_SECONDS=3",
    )
    with running_with_limits(folder, *limits) as started:
        yield started
    assert "Traceback" not in started.output
    assert "Exception" not in started.output


@pytest.fixture(scope="module")
def digit() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()
