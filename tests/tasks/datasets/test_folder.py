"""The `folder` source: class folders, with and without split folders around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.files import (
    first_pixels,
    opened,
    write_images,
)


def test_each_sub_folder_is_one_class_and_classes_are_sorted_by_name(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"dog/2.PNG": 2, "dog/1.png": 1, "cat/deep/er.png": 3, "cat/.hidden.png": 9})
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    source = opened("folder", root)
    assert source.images.lost_classes == ("empty (an empty folder)",)
    assert source.classes == ("cat", "dog")
    assert list(source.parts) == ["train"]
    part = source.parts["train"]
    assert [(label, name) for _, label, name in part] == [(0, "cat/deep/er.png"), (1, "dog/1.png"), (1, "dog/2.PNG")]
    assert first_pixels(part) == [3, 1, 2]
    assert [unused.description for unused in source.images.unused] == [
        "1 file that is no image, by content: cat/notes.txt",
        "1 image hidden by a name that begins with a dot: cat/.hidden.png",
    ]
    assert source.images.layout == "the classes are the 2 folders in data.path; there are no split folders"


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "Validation", "Test")],
)
def test_split_folders_are_read_under_their_usual_names(tmp_path: Path, train: str, validation: str, test: str) -> None:
    images = {f"{train}/a/1.png": 1, f"{train}/b/1.png": 2, f"{validation}/b/1.png": 3, f"{test}/a/1.png": 4}
    root = write_images(tmp_path, images)
    source = opened("folder", root)
    assert source.classes == ("a", "b")
    labels_and_values = {name: (list(part.labels), first_pixels(part)) for name, part in source.parts.items()}
    assert labels_and_values == {"train": ([0, 1], [1, 2]), "validation": ([1], [3]), "test": ([0], [4])}


def test_a_folder_called_train_that_holds_images_directly_is_a_class(tmp_path: Path) -> None:
    source = opened("folder", write_images(tmp_path, {"train/1.png": 1, "tram/1.png": 2}))
    assert source.classes == ("train", "tram")


def test_a_test_folder_without_class_folders_is_left_out(tmp_path: Path) -> None:
    source = opened("folder", write_images(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "test/1.png": 3}))
    assert list(source.parts) == ["train"]
    (unused,) = source.images.unused
    assert unused.description == "1 image in test without class folders, and so without labels"
    assert not unused.lost_images, "an image without a label does not count as lost"


@pytest.mark.parametrize(
    ("images", "path", "message"),
    [
        ({}, "nowhere", "nowhere is not there; a folder is needed"),
        ({}, "", "has no sub-folder with images in it"),
        ({"1.png": 1, "2.png": 2}, "", "has no sub-folder with images in it"),
        ({"set/1.png": 1}, "", "in one class folder only, 'set'"),
        ({"a/1.png": 1}, "a/1.png", "is a single image .PNG.; a folder is needed"),
        ({"train/a/1.png": 1, "val/a/1.png": 1, "valid/a/1.png": 1}, "", "are both validation images"),
    ],
)
def test_a_path_without_class_folders_of_images_is_refused_with_the_reason(
    tmp_path: Path, images: dict[str, int], path: str, message: str
) -> None:
    write_images(tmp_path, images)
    with pytest.raises(ValueError, match=message):
        opened("folder", tmp_path / path).parts  # noqa: B018
