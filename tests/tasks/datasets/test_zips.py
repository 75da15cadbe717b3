"""Zip files as other programs write them: with absolute paths, dots within paths, and members that lead out."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support.images import opened, picture

if TYPE_CHECKING:
    from pathlib import Path


def write_zip(path: Path, *names: str) -> Path:
    """Write a zip with an image of its own content under each of these names."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            # The name is set after construction, so that ZipInfo cannot change its backslashes.
            info.filename = name
            archive.writestr(info, picture(number))
    return path


@pytest.mark.parametrize("prefix", ["/", "//", "C:/", "C:\\", "/home/me/photos/", "D:\\photos\\"])
def test_members_with_absolute_paths_are_read_below_the_zips_root_as_unzip_does(tmp_path: Path, prefix: str) -> None:
    images = opened(write_zip(tmp_path / "a.zip", f"{prefix}cats/1.png", f"{prefix}dogs/2.png")).images
    assert images.classes == ("cats", "dogs")
    assert images.layout.endswith("2 members of the zip have absolute paths, read as below the zip's root")
    assert not images.lost_classes
    assert not images.unused


def test_single_dots_and_double_slashes_in_the_paths_of_members_are_ignored(tmp_path: Path) -> None:
    images = opened(
        write_zip(tmp_path / "a.zip", "./", "./cats/", "./cats/1.png", "./cats/./2.png", "dogs//3.png")
    ).images
    assert images.classes == ("cats", "dogs")
    assert images.parts["train"].rows == 3
    assert not images.unused


@pytest.mark.parametrize("name", ["../cats/1.png", "cats/../../dogs/1.png", "/../1.png", "..\\cats\\1.png"])
def test_a_member_that_leads_out_of_the_zip_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    shown = name.replace("\\", "/").replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"a\.zip has the member {shown}, which leads out of the zip's own folder"):
        _ = opened(write_zip(tmp_path / "a.zip", "cats/1.png", name)).images
