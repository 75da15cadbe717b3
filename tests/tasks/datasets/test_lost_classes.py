"""A class without images is refused unless allowed, merged folders are logged, and pipes and devices stay unopened."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.caching.work import Work
from tasks.datasets import _place, _tree
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.images import counts, opened, picture, tree, unused_descriptions

if TYPE_CHECKING:
    from collections.abc import Callable

TWO_CLASSES = {"cat": 6, "dog": 6}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


def _empty_class(tmp: Path) -> Path:
    return tree(tmp / "set", {**TWO_CLASSES, "bird": 0})


def _class_empty_in_test(tmp: Path) -> Path:
    return tree(
        tmp / "set", {"train/cat": 6, "train/dog": 6, "train/bird": 6, "test/cat": 2, "test/dog": 2, "test/bird": 0}
    )


def _class_with_an_empty_split(tmp: Path) -> Path:
    parts = {f"{name}/{part}": 6 for name in ("cat", "dog", "bird") for part in ("train", "test")}
    return tree(tmp / "set", {**parts, "bird/test": 0})


def _zip_with_an_empty_class(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "set.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"set/{'cat' if number < 6 else 'dog'}/{number}.png", picture(number))
        archive.mkdir("set/bird")
    return tmp / "set.zip"


def _class_only_in_test(tmp: Path) -> Path:
    return tree(tmp / "set", {"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2, "test/bird": 3})


def _parquet_with_an_unused_class_name(tmp: Path) -> Path:
    names = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["bird", "cat", "dog"]}}}}'
    columns = {"image": [picture(i) for i in range(12)], "label": [1 + i % 2 for i in range(12)]}
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": names}), tmp / "set.parquet")
    return tmp / "set.parquet"


@pytest.mark.parametrize(
    ("make", "lost_class"),
    [
        (_empty_class, r"bird \(an empty folder\)"),
        (_class_empty_in_test, r"test/bird \(an empty folder\)"),
        (_class_with_an_empty_split, r"bird/test \(an empty folder\)"),
        (_zip_with_an_empty_class, r"set/bird \(an empty folder\)"),
        (_class_only_in_test, r"bird \(no training image, 3 in other parts\)"),
        (_parquet_with_an_unused_class_name, r"bird \(no image\)"),
    ],
)
def test_a_class_without_images_is_refused_unless_allowed(
    tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture, make: Callable[[Path], Path], lost_class: str
) -> None:
    path = str(make(tmp_path))
    with pytest.raises(
        ValueError, match=f"these would not be used: the class {lost_class}; .*data\\.on_bad=drop"
    ) as error:
        prepare(work, Data(path=path))
    assert "\n" not in str(error.value)
    assert {"cat", "dog"} <= set(prepare(work, Data(path=path, on_bad="drop")).classes)
    assert "bird" in caplog.text


def test_a_class_without_test_images_is_logged(tmp_path: Path, work: Work, caplog: Any) -> None:
    prepare(work, Data(path=str(tree(tmp_path / "set", {"train/cat": 9, "train/dog": 9, "test/cat": 3}))))
    assert "test: no image of 1 class: dog, so that nothing is measured of them" in caplog.text


def test_an_empty_split_folder_or_an_empty_folder_beside_the_data_set_is_reported(tmp_path: Path) -> None:
    splits = tree(tmp_path / "splits", {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1, "val": 0})
    assert unused_descriptions(opened(splits)) == ["the split folder val, which holds no images"]
    around = tree(tmp_path / "around", {"photos/cat": 3, "photos/dog": 3, "more": 0})
    assert unused_descriptions(opened(around)) == ["the folder more, which holds no images"]


def test_a_class_with_images_in_several_folders_is_logged_with_the_count_per_folder(
    tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path / "set", {"a/x": 5, "a/y": 4, "b": 6, "b/old": 2, "c/images": 7})
    assert counts(opened(root)) == {"train": {"a": 9, "b": 8, "c": 7}}
    prepared = prepare(work, Data(path=str(root)))
    counts_per_folder = "a (x 5, y 4), b (old 2, itself 6)"
    assert f"2 classes have images of several folders, which are taken as one class: {counts_per_folder}" in caplog.text
    table = pl.read_parquet(work.store.get(prepared.tables["datasets"]))
    assert f"merged: {counts_per_folder}" in table["layout"][0]
    splits = tree(tmp_path / "splits", {"train/a/x": 2, "train/a/y": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    assert opened(splits).images.merged_classes == ("train/a (x 2, y 2)",)


# ------------------------------------------------------------------------------------ paths that can hold no data set


def _pipe(tmp: Path) -> str:
    os.mkfifo(tmp / "pipe")
    return str(tmp / "pipe")


def _socket(tmp: Path) -> str:
    # A socket's path may have at most 107 bytes, which the path of the temporary folder may exceed.
    folder = os.open(tmp, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/socket")
    os.close(folder)
    return str(tmp / "socket")


def _link_to_itself(tmp: Path) -> str:
    (tmp / "circle").symlink_to(tmp / "circle")
    return str(tmp / "circle")


@pytest.mark.parametrize("source", ["auto", "folder", "parquet"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda tmp: "/dev/zero", "a device, which holds no data set"),
        (lambda tmp: "/proc/self", "a file system of the kernel's own (proc)"),
        (lambda tmp: "/sys", "a file system of the kernel's own (sysfs)"),
        (_pipe, "a named pipe (FIFO), which holds no data set"),
        (_socket, "a socket, which holds no data set"),
        (_link_to_itself, "a link that leads back to itself"),
    ],
)
def test_pipes_devices_and_file_systems_of_the_kernel_are_refused_unopened(
    tmp_path: Path, work: Work, make: Callable[[Path], str], reason: str, source: Any
) -> None:
    with pytest.raises(ValueError, match=r"^data\.path: ") as error:
        prepare(work, Data(source=source, path=make(tmp_path)))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_the_longest_mount_that_contains_a_folder_tells_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this file the kernel writes a space as \040.
    line = "{} 1 0:1 / {} rw,relatime shared:1 - {} source rw"
    mounts = [("/", "ext4"), ("/my\\040data/deep", "proc"), ("/my\\040data", "xfs")]
    (tmp_path / "mounts").write_text("\n".join(line.format(i, place, kind) for i, (place, kind) in enumerate(mounts)))
    monkeypatch.setattr(_place, "MOUNTS", tmp_path / "mounts")
    file_systems = [_place._file_system(Path(path)) for path in ("/my", "/my data/x", "/my data/deep/x")]
    assert file_systems == ["ext4", "xfs", "proc"]


def test_looking_for_images_ends_after_a_limited_number_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for number in range(30):
        (root / f"{number}.bin").write_bytes(b"\0")
    read_paths: list[str] = []
    head_of = _tree.head_of
    monkeypatch.setattr(_tree, "MOST", 20)
    monkeypatch.setattr(_tree, "head_of", lambda path: read_paths.append(path) or head_of(path))
    with pytest.raises(ValueError, match=r"the first 20 files in .* hold no image"):
        opened(root).images  # noqa: B018
    assert len(read_paths) == 20
