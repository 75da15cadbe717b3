"""Zip files as programs write them, and as they arrive: absolute paths, paths that lead out, dots within paths, cut
off."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support.images import opened, picture

if TYPE_CHECKING:
    from pathlib import Path


def archive_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            # as other programs write it: Python would change backslashes
            info.filename = name
            archive.writestr(info, picture(number))
    return path


@pytest.mark.parametrize("prefix", ["/", "//", "C:/", "C:\\", "/home/me/photos/", "D:\\photos\\"])
def test_members_with_absolute_paths_are_read_below_the_root_as_unzip_does_and_that_is_said(
    tmp_path: Path, prefix: str
) -> None:
    images = opened(archive_of(tmp_path / "a.zip", f"{prefix}cats/1.png", f"{prefix}dogs/2.png")).images
    assert images.classes == ("cats", "dogs")
    assert images.layout.endswith("2 members of the zip have absolute paths, read as below the zip's root")
    assert not images.lost_classes
    assert not images.unused


def test_dots_and_doubled_slashes_within_paths_mean_nothing(tmp_path: Path) -> None:
    images = opened(
        archive_of(tmp_path / "a.zip", "./", "./cats/", "./cats/1.png", "./cats/./2.png", "dogs//3.png")
    ).images
    assert images.classes == ("cats", "dogs")
    assert images.parts["train"].rows == 3
    assert not images.unused


@pytest.mark.parametrize("name", ["../cats/1.png", "cats/../../dogs/1.png", "/../1.png", "..\\cats\\1.png"])
def test_a_member_that_leads_out_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    shown = name.replace("\\", "/").replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"a\.zip has the member {shown}, which leads out of the zip's own folder"):
        _ = opened(archive_of(tmp_path / "a.zip", "cats/1.png", name)).images
