"""Sizes of images that fit no disk or memory are refused by the setting that asks for them, before an image is
decoded."""

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
    ("sizes", "said"),
    [
        (
            {"image_size": 16_384},
            r"data.image_size = 16384: 1,797 images would take 1.45 TB on",
        ),
        ({"image_size": 8, "resize": 9_500}, r"data.resize = 9500: .* of memory .*; choose a smaller data.resize"),
    ],
)
def test_a_size_that_fits_no_disk_or_memory_is_refused_by_its_setting(work: Work, sizes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        prepare(work, Data(source="digits", **sizes))
    assert "undecodable" not in str(error.value)


def test_a_size_whose_decoding_needs_more_memory_than_there_is_is_refused(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(source="digits", image_size=16)
    monkeypatch.setattr(quota, "memory_available", lambda: 256 * 10 * quota.usable_processors() - 1)
    with pytest.raises(ValueError, match=r"data.image_size = 16: .* kB of memory while they are decoded"):
        prepare(work, data)
    monkeypatch.setattr(quota, "memory_available", lambda: 256 * 10 * quota.usable_processors())
    assert prepare(work, data).image_size == 16
