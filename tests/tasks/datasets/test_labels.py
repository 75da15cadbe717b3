"""The name under which a data set is reported follows its content, wherever it lies and however it is packed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tasks.caching.work import Work
from tasks.datasets import open_source
from tasks.datasets._label import CIFAR10, OF_CIFAR100, label
from tasks.datasets._source import Images, Part, Source
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.files import needs_shared, png, write_parquet
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from pathlib import Path

COPY = "CIFAR-10, JPEG-recompressed copy"


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    return file.getvalue()


def label_of(settings: Data) -> str:
    return label(settings, open_source(settings))


@needs_shared
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", COPY),
        ("cifar10/test-00000-of-00001.parquet", COPY),
        ("broken", COPY),
        ("tiny-imagenet", "Tiny ImageNet, a subset of 30000 images"),
        ("imagenet-1k-sample", "ImageNet-1k, a subset of 1000 images"),
    ],
)
def test_shared_data_is_labelled_as_its_readme_demands(name: str, expected: str) -> None:
    assert label_of(Data(source="parquet", path=str(SHARED / name))) == expected


def test_cifar_10_is_labelled_as_a_recompressed_copy_only_where_its_images_are_jpeg(tmp_path: Path) -> None:
    copy = write_parquet(tmp_path / "copy.parquet", [(b"", 0), (None, 1), (jpeg(), 1)], list(CIFAR10), null=(1,))
    assert label_of(Data(source="parquet", path=str(copy))) == COPY, (
        "an empty or missing image does not tell the format"
    )
    lossless = write_parquet(tmp_path / "lossless.parquet", [(png(size=(32, 32)), 0)], list(CIFAR10))
    assert label_of(Data(source="parquet", path=str(lossless))) == "CIFAR-10"
    for name in CIFAR10:
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "1.jpg").write_bytes(jpeg())
    assert label_of(Data(source="folder", path=str(tmp_path / "folder"))) == COPY


def test_pixels_from_torchvision_are_labelled_as_the_original_cifar() -> None:
    part = Part([0], lambda rows: iter([(np.zeros((32, 32, 3), np.uint8), "")]))
    cifar10, cifar100 = (
        Source(lambda names=names: Images(names, {"train": part}), str)
        for names in (CIFAR10, (*OF_CIFAR100, *map(str, range(95))))
    )
    assert label(Data(source="cifar10"), cifar10) == "CIFAR-10"
    assert label(Data(source="cifar100"), cifar100) == "CIFAR-100"


def test_data_that_is_not_recognised_is_labelled_by_its_path_or_source(tmp_path: Path) -> None:
    assert label_of(Data()) == "digits"
    path = write_parquet(tmp_path / "set.parquet", [(jpeg(), 0)], ["cat", "dog"])
    assert label_of(Data(source="parquet", path=str(path))) == str(path)


def test_the_label_stands_in_the_datasets_table(tmp_path: Path) -> None:
    rows = [(jpeg(), i % 10) for i in range(60)]
    file = write_parquet(tmp_path / "train.parquet", rows, list(CIFAR10))
    work = Work.at(tmp_path / "out", "prepare")
    prepared = prepare(work, Data(source="parquet", path=str(file)))
    table = pl.read_parquet(work.store.get(prepared.tables["datasets"]))
    assert set(table["label"]) == {COPY}
