"""Images and class folders whose names begin with a dot count as lost images; files that tools leave do not."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest

from tasks.datasets import open_source
from tasks.datasets._notes import refuse_lost
from tasks.records import Data
from tests.support.files import write_parquet
from tests.support.images import opened, picture, tree

if TYPE_CHECKING:
    from pathlib import Path


def zipped(root: Path) -> Path:
    """Zip the folder without entries for folders, as many programs do."""
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(root))
    return root.with_suffix(".zip")


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", ["..cats", "..／x", "._cats", ".birds"])
def test_a_hidden_class_folder_is_refused_as_a_lost_class_and_its_images_are_counted(
    tmp_path: Path, name: str, form: str
) -> None:
    root = tree(tmp_path / "set", {"cat": 6, "dog": 6, name: 5})
    path = root if form == "folder" else zipped(root)
    images = opened(path).images
    assert [(unused.description, unused.lost_images) for unused in images.unused] == [
        (f"5 images hidden by names that begin with a dot: {name}/ (5)", 5)
    ]
    assert images.lost_classes == (f"{name}/ (a folder hidden by the dot before its name)",)
    with pytest.raises(
        ValueError, match=r"these would not be used: the class .*, and 5 of 17 images: .*data\.on_bad=drop"
    ):
        refuse_lost(images, Data(path=str(path), source="folder"))
    refuse_lost(images, Data(path=str(path), source="folder", on_bad="drop"))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_hidden_images_in_a_class_are_lost_but_files_left_by_tools_are_not(tmp_path: Path, form: str) -> None:
    root = tree(tmp_path / "set", {"cat": 6, "dog": 6, ".git": 3, "cat/.ipynb_checkpoints": 2, "__MACOSX/cat": 4})
    (root / "cat" / "..one.png").write_bytes(picture(90))
    (root / "dog" / ".two").write_bytes(picture(91))
    (root / "cat" / "._000.png").write_bytes(b"\0\5\x16\7")
    (root / ".gitignore").write_text("x")
    images = opened(root if form == "folder" else zipped(root)).images
    assert {unused.description: (unused.lost_images, unused.harmless) for unused in images.unused} == {
        "1 file or folder hidden by a dot before the name, without images": (0, True),
        f"{4 if form == 'folder' else 10} files or folders left by systems, notebooks and tools": (0, True),
        "2 images hidden by names that begin with a dot: cat/..one.png, dog/.two": (2, False),
    }
    assert not images.lost_classes
    with pytest.raises(ValueError, match="2 of 14 images"):
        refuse_lost(images, Data(path=str(root), source="folder"))


def test_refusing_a_folder_with_one_visible_class_also_names_its_hidden_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat": 6, "..dog": 6})
    with pytest.raises(
        ValueError, match=r"one class folder only, 'cat'.*; not used are 6 images hidden .*: \.\.dog/ \(6\)"
    ):
        _ = opened(root).images


def test_a_hidden_link_to_a_class_folder_that_is_read_loses_no_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat": 6, "dog": 6})
    (root / ".newest").symlink_to("cat")
    assert not [unused for unused in opened(root).images.unused if unused.lost_images]


def test_rows_of_a_hidden_parquet_file_are_counted_as_lost(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_parquet(folder / "train.parquet", [(picture(row), row % 2) for row in range(6)])
    shutil.copyfile(folder / "train.parquet", folder / "..more.parquet")
    images = open_source(Data(path=str(folder))).images
    assert [(unused.description, unused.lost_images) for unused in images.unused] == [
        ("6 rows of Parquet hidden by names that begin with a dot: ..more.parquet", 6)
    ]
