"""Every file in tasks/datasets is a source, and a source's fingerprint follows its content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tasks.datasets import open_source
from tasks.records import Data, plugins
from tests.support.files import (
    opened,
    png,
    write_images,
    write_parquet,
)


def test_each_file_of_the_folder_of_sources_is_a_source_with_its_name() -> None:
    assert plugins("datasets") == ("cifar10", "cifar100", "digits", "folder", "parquet", "tiny_imagenet")


def test_digits_equal_scikit_learns_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    source = open_source(Data())
    (part,) = source.parts.values()
    images = np.stack([image for image, _, _ in part])
    assert source.classes == tuple("0123456789")
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert np.abs(images / 255 * 16 - load_digits().images).max() < 0.05
    assert list(part.labels) == load_digits().target.tolist()
    assert source.fingerprint() == open_source(Data()).fingerprint()


def test_a_fingerprint_changes_with_contents_and_names_but_not_with_times(tmp_path: Path) -> None:
    root = write_images(tmp_path / "x", {"a/1.png": 1, "b/1.png": 2})
    copy = write_images(tmp_path / "y", {"a/1.png": 1, "b/1.png": 2})
    before = opened("folder", root).fingerprint()
    assert opened("folder", copy).fingerprint() == before
    os.utime(root / "a" / "1.png", (1, 1))
    assert opened("folder", root).fingerprint() == before
    write_images(root, {"a/1.png": 3})
    changed = opened("folder", root).fingerprint()
    assert changed != before
    (root / "a" / "1.png").rename(root / "a" / "2.png")
    assert opened("folder", root).fingerprint() not in (before, changed)


def test_the_fingerprint_of_much_data_follows_times_instead_of_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.datasets._source.HASHED_BYTES", 100)
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0)], ["a", "b"])
    before = opened("parquet", path).fingerprint()
    os.utime(path, (1, 1))
    assert opened("parquet", path).fingerprint() != before
