"""The source `tiny_imagenet` reads the published zip and the folder that it unpacks to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.files import (
    first_pixels,
    opened,
    write_tiny_imagenet,
    zipped,
)


@pytest.mark.parametrize("form", ["zip", "folder of the zip", "unpacked", "folder of the unpacked"])
def test_tiny_imagenet_is_read_alike_from_the_zip_and_from_the_folder(tmp_path: Path, form: str) -> None:
    base = write_tiny_imagenet(tmp_path / "made")
    folder = tmp_path / "kept"
    folder.mkdir()
    archive = zipped(base, folder / "tiny-imagenet-200.zip")
    path = {"zip": archive, "folder of the zip": folder, "unpacked": base, "folder of the unpacked": base.parent}[form]
    source = opened("tiny_imagenet", path)
    assert source.classes == ("n01", "n02")
    train, validation = source.parts["train"], source.parts["validation"]
    assert (list(train.labels), first_pixels(train)) == ([0, 0, 0, 1, 1, 1], [10, 11, 12, 0, 1, 2])
    assert (list(validation.labels), first_pixels(validation)) == ([1, 0, None], [50, 51, 52])
    assert [(unused.description, unused.lost_images) for unused in source.images.unused] == [
        ("1 training image of classes that wnids.txt does not list", 1),
        ("1 test image without labels", 0),
    ]
    assert len(source.fingerprint()) == 64


def _zip_with_damaged_images(folder: Path) -> Path:
    """Write a zip whose images do not match their checksums."""
    archive = zipped(write_tiny_imagenet(folder / "made"), folder / "damaged.zip")
    archive.write_bytes(archive.read_bytes().replace(b"IHDR", b"XXXX"))
    return archive


def _text_called_zip(folder: Path) -> Path:
    (folder / "text.zip").write_text("no zip")
    return folder / "text.zip"


def _no_images(folder: Path) -> Path:
    (folder / "wnids.txt").write_text("n01\nn02\n")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing.zip", "is not there; give tiny-imagenet-200.zip"),
        (lambda folder: folder, "has no wnids.txt"),
        (_text_called_zip, "text.zip is a text"),
        (_no_images, "has no images train/<wnid>/images"),
        (_zip_with_damaged_images, "damaged.zip is damaged at tiny-imagenet-200/train/n01/images/n01_0.JPEG"),
    ],
)
def test_a_path_without_tiny_imagenet_is_refused_with_the_reason(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(opened("tiny_imagenet", make(tmp_path)).parts["train"])
