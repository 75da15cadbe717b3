"""The log of prepare counts as decoded only the images that were decoded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tasks.caching.work import Work
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.images import tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("damaged", "message"), [(0, "decoded 40 of 40 images"), (5, "decoded 35 of 40 images, 5 cannot be decoded")]
)
def test_images_that_cannot_be_decoded_are_not_counted_as_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: int, message: str
) -> None:
    root = tree(tmp_path / "set", {"cat": 20, "dog": 20})
    for path in sorted((root / "dog").iterdir())[15 : 15 + damaged]:
        path.write_bytes(path.read_bytes()[:40])
    caplog.set_level(logging.DEBUG)
    work = Work.at(tmp_path / "out", "prepare")
    if damaged:
        with pytest.raises(ValueError, match="5 of 40 rows"):
            prepare(work, Data(path=str(root)))
    else:
        prepare(work, Data(path=str(root)))
    assert [
        record.message.partition(": ")[2] or record.message for record in caplog.records if "decoded" in record.message
    ][-1] == message
