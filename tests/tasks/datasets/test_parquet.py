"""The `parquet` source reads files, folders and data sets of the hub, and refuses others with a reason in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.datasets import open_source
from tasks.records import Data
from tests.support.files import (
    IMAGE,
    first_pixels,
    needs_shared,
    opened,
    png,
    write_parquet,
)
from tests.support.paths import SHARED


def test_rows_are_numbered_across_the_files_of_a_part_and_read_by_number(tmp_path: Path) -> None:
    for number, start in enumerate((0, 7, 14)):
        rows = [(png(value), value % 2) for value in range(start, start + 7)]
        write_parquet(tmp_path / "data" / f"train-0000{number}-of-00003.parquet", rows, ["a", "b"])
    source = opened("parquet", tmp_path)
    part = source.parts["train"]
    assert source.classes == ("a", "b")
    assert part.rows == 21
    assert first_pixels(part) == list(range(21))
    assert first_pixels(part, [2, 3, 6, 7, 20]) == [2, 3, 6, 7, 20]
    assert list(part.labels) == [value % 2 for value in range(21)]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "valid-00000-of-00001", "test-00000-of-00001"),
        ("data/train", "data/validation", "data/test"),
        ("default/train/0000", "default/val/0000", "default/test/0000"),
    ],
)
def test_parts_are_named_after_files_or_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    for value, name in enumerate(names):
        write_parquet(tmp_path / f"{name}.parquet", [(png(value), 0)], ["a", "b"])
    parts = opened("parquet", tmp_path).parts
    assert {name: first_pixels(part) for name, part in parts.items()} == {"train": [0], "validation": [1], "test": [2]}


def test_a_file_not_named_after_a_split_is_the_training_part(tmp_path: Path) -> None:
    write_parquet(tmp_path / "broken-00000-of-00001.parquet", [(png(7), 0)], ["a", "b"])
    assert list(opened("parquet", tmp_path).parts) == ["train"]
    assert first_pixels(opened("parquet", tmp_path / "broken-00000-of-00001.parquet").parts["train"]) == [7]


def test_image_and_label_columns_are_found_by_type_and_metadata(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", [(png(1), 1), (png(2), None)], ["a", "b"], image="photo", label="fine_label"
    )
    source = opened("parquet", path)
    assert source.classes == ("a", "b")
    assert list(source.parts["train"].labels) == [1, None]
    assert first_pixels(source.parts["train"]) == [1, 2]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0), (png(2), 2), (png(3), -1)])
    assert opened("parquet", path).classes == ("0", "1", "2")


def test_a_null_struct_and_null_bytes_are_both_read_as_a_null_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0), (None, 0), (b"", 0), (png(2), 1)], ["a", "b"], null=(0,))
    images = [image for image, _, _ in opened("parquet", path).parts["train"]]
    assert images[:3] == [None, None, b""]
    assert images[3] == png(2)


def _no_files(folder: Path) -> Path:
    return folder


def _two_sets(folder: Path) -> Path:
    for name in ("one", "two"):
        write_parquet(folder / name / "train.parquet", [(png(), 0)], ["a", "b"])
    return folder


def _text_file(folder: Path) -> Path:
    (folder / "x.parquet").write_text("not Parquet at all")
    return folder / "x.parquet"


def _file_cut_off(folder: Path) -> Path:
    path = write_parquet(folder / "x.parquet", [(png(i), 0) for i in range(9)], ["a", "b"])
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _no_image_column(folder: Path) -> Path:
    pq.write_table(pa.table({"picture": ["a"], "label": [0]}), folder / "x.parquet")
    return folder


def _no_label_column(folder: Path) -> Path:
    table = pa.table({"img": pa.array([{"bytes": png(), "path": ""}], IMAGE), "label": [["cat"]]})
    pq.write_table(table, folder / "x.parquet")
    return folder


def _two_orders_of_class_names(folder: Path) -> Path:
    write_parquet(folder / "train.parquet", [(png(), 0)], ["a", "b"])
    write_parquet(folder / "test.parquet", [(png(), 0)], ["b", "a"])
    return folder


def _huge_label_without_names(folder: Path) -> Path:
    return write_parquet(folder / "x.parquet", [(png(), 0), (png(), 10**12)])


def _file_not_named_after_a_split(folder: Path) -> Path:
    write_parquet(folder / "train.parquet", [(png(), 0)], ["a", "b"])
    write_parquet(folder / "more.parquet", [(png(), 0)], ["a", "b"])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_files, "holds no .parquet files"),
        (_two_sets, "holds 2 data sets .in one, two."),
        (_text_file, "x.parquet cannot be read as Parquet"),
        (_file_cut_off, "x.parquet cannot be read as Parquet"),
        (_no_image_column, r"needs one image column.*picture \(string\), label \(int64\)"),
        (_no_label_column, r"no column that can be the label.*label \(list<.*: string>\)"),
        (_two_orders_of_class_names, "do not agree on the class names"),
        (_huge_label_without_names, "no class names, and labels up to 1000000000000 in 2 rows"),
        (_file_not_named_after_a_split, "more.parquet begin with none of train"),
        (lambda folder: folder / "nothing" / "at" / "all", "is not there; give a .parquet file"),
    ],
)
def test_parquet_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened("parquet", make(tmp_path)).parts  # noqa: B018
    assert "\n" not in str(error.value)


def test_a_parquet_file_with_a_damaged_page_is_refused_by_its_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(os.urandom(2000), 0) for _ in range(9)], ["a", "b"])
    content = bytearray(path.read_bytes())
    # These bytes hold the header of the first page.
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as Parquet"):
        list(opened("parquet", path).parts["train"])


class Hub:
    """Stands in for the hub's API. Its data set is a folder; the files in `converted` are the hub's own conversion."""

    def __init__(self, root: Path, converted: tuple[str, ...] = ()) -> None:
        self.root, self.converted, self.fetched = root, converted, []

    def dataset_info(self, repo: str, revision: str | None = None) -> Any:
        from huggingface_hub.hf_api import DatasetInfo

        names = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*.parquet")]
        names = [name for name in names if (name in self.converted) == (revision == "refs/convert/parquet")]
        return DatasetInfo(
            id=repo, sha=revision or "main", siblings=[{"rfilename": name} for name in [*names, "README.md"]]
        )

    def download(self, repo: str, name: str, repo_type: str, revision: str) -> str:
        assert repo_type == "dataset"
        assert revision == ("refs/convert/parquet" if name in self.converted else "main")
        self.fetched.append(name)
        return str(self.root / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    stand_in = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda _, *a, **k: stand_in.dataset_info(*a, **k))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand_in.download)
    return stand_in


def test_a_data_set_of_the_hub_is_fetched_by_name(hub: Hub) -> None:
    write_parquet(hub.root / "plain_text" / "train-00000-of-00001.parquet", [(png(1), 0), (png(2), 1)], ["a", "b"])
    write_parquet(hub.root / "plain_text" / "test-00000-of-00001.parquet", [(png(3), 1)], ["a", "b"])
    source = opened("parquet", "owner/name")
    assert {name: first_pixels(part) for name, part in source.parts.items()} == {"train": [1, 2], "test": [3]}
    assert len(source.fingerprint()) == 64
    assert len(hub.fetched) == 2


def test_only_the_named_configuration_of_a_data_set_of_the_hub_is_fetched(hub: Hub) -> None:
    for value, config in enumerate(("small", "large")):
        write_parquet(hub.root / config / "train-00000-of-00001.parquet", [(png(value), 0)], ["a", "b"])
    assert first_pixels(opened("parquet", "owner/name:large").parts["train"]) == [1]
    assert hub.fetched == ["large/train-00000-of-00001.parquet"]
    with pytest.raises(ValueError, match=r"holds 2 data sets \(in large, small\)"):
        opened("parquet", "owner/name").parts  # noqa: B018
    with pytest.raises(ValueError, match="holds no such data sets"):
        opened("parquet", "owner/name:huge").parts  # noqa: B018


def test_only_the_named_part_of_a_data_set_of_the_hub_is_fetched(hub: Hub) -> None:
    for part, value in (("train", 1), ("validation", 2), ("test", 3)):
        write_parquet(hub.root / "data" / f"{part}-00000-of-00001.parquet", [(png(value), 0)], ["a", "b"])
    source = open_source(Data(source="parquet", path="owner/name:validation"))
    assert list(source.parts) == ["validation"]
    assert hub.fetched == ["data/validation-00000-of-00001.parquet"], (
        "the training part, which may have 150 GB, is not needed"
    )


def test_a_hub_data_set_without_parquet_is_read_from_the_hubs_conversion(hub: Hub) -> None:
    write_parquet(hub.root / "default" / "train" / "0000.parquet", [(png(5), 0)], ["a", "b"])
    hub.converted = ("default/train/0000.parquet",)
    assert first_pixels(opened("parquet", "owner/name").parts["train"]) == [5]


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.errors

    def unreachable(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.HTTPError("[Errno -2] Name or service\nnot known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(
        ValueError, match=r"owner/name does not exist here.* hub failed: .*Name or service not known"
    ) as error:
        opened("parquet", "owner/name").fingerprint()
    assert "\n" not in str(error.value)


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows", "classes", "first"),
    [
        ("cifar10", {"train": 50_000, "test": 10_000}, 10, "airplane"),
        ("tiny-imagenet", {"train": 25_000, "validation": 5_000}, 200, "n01443537"),
        ("imagenet-1k-sample", {"validation": 1_000}, 1000, "n01440764"),
        ("broken", {"train": 200}, 10, "airplane"),
    ],
)
def test_shared_data_is_read_with_its_known_rows_and_classes(
    name: str, rows: dict[str, int], classes: int, first: str
) -> None:
    source = opened("parquet", SHARED / name)
    assert {name: part.rows for name, part in source.parts.items()} == rows
    assert len(source.classes) == classes
    assert source.classes[0] == first
    for part in source.parts.values():
        assert all(isinstance(image, bytes) for image, _ in part.read([0, part.rows - 1]))


def test_the_log_says_which_file_is_which_split(tmp_path: Path) -> None:
    for name in ("train", "holdout"):
        write_parquet(tmp_path / f"{name}.parquet", [(png(1), 0), (png(2), 1)], ["a", "b"])
    layout = open_source(Data(source="parquet", path=str(tmp_path))).images.layout
    assert set(layout.removeprefix("the splits are the files ").split(", ")) == {
        "holdout.parquet (test)",
        "train.parquet (train)",
    }
