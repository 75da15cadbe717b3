"""An image size that needs more disk or memory than there is is refused, before an image is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.caching.work import Work
from tasks.machine import quota
from tasks.prepare import prepare
from tasks.records import Data

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"image_size": 16_384},
            r"data.image_size = 16384: 1,797 images would take 1.45 TB on",
        ),
        ({"image_size": 8, "resize": 9_500}, r"data.resize = 9500: .* of memory .*; choose a smaller data.resize"),
    ],
)
def test_an_image_size_beyond_disk_or_memory_is_refused_with_the_name_of_its_setting(
    work: Work, sizes: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        prepare(work, Data(source="digits", **sizes))
    assert "undecodable" not in str(error.value)


def test_an_image_size_is_refused_if_decoding_alone_would_exceed_the_memory(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(source="digits", image_size=16)
    monkeypatch.setattr(quota, "memory_available", lambda: 256 * 10 * quota.usable_processors() - 1)
    with pytest.raises(ValueError, match=r"data.image_size = 16: .* kB of memory while they are decoded"):
        prepare(work, data)
    monkeypatch.setattr(quota, "memory_available", lambda: 256 * 10 * quota.usable_processors())
    assert prepare(work, data).image_size == 16
