"""Parquet as the hub has it: which column holds the images and which the labels, for every type that each may have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.caching.work import Work
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.files import IMAGE, opened, png, write_parquet

if TYPE_CHECKING:
    from pathlib import Path

BYTES = [png(value) for value in range(6)]
STRUCTS = pa.array([{"bytes": image, "path": None} for image in BYTES], IMAGE)
NUMBERS = [0, 1, 2, 0, 1, 2]
WORDS = ["emu", "cat", "dog"] * 2


def write_table(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


@pytest.mark.parametrize(
    "images",
    [
        STRUCTS,
        pa.array(BYTES, pa.binary()),
        pa.array(BYTES, pa.large_binary()),
        pa.array(BYTES, pa.binary()).dictionary_encode(),
        pa.StructArray.from_arrays([pa.array(BYTES, pa.large_binary())], ["bytes"]),
    ],
    ids=["struct", "binary", "large binary", "dictionary", "large struct without path"],
)
def test_an_image_column_may_hold_structs_or_any_type_of_bytes(tmp_path: Path, images: pa.Array) -> None:
    part = opened("auto", write_table(tmp_path / "x.parquet", picture=images, label=NUMBERS)).parts["train"]
    assert [image for image, _, _ in part] == BYTES
    assert [image for image, _ in part.read([1, 4, 5])] == [BYTES[1], BYTES[4], BYTES[5]]
    assert [name for _, name in part.read([0, 5])] == ["x.parquet row 0", "x.parquet row 5"]


@pytest.mark.parametrize(
    ("labels", "classes", "rows"),
    [
        (NUMBERS, ("0", "1", "2"), NUMBERS),
        (pa.array(NUMBERS, pa.uint8()), ("0", "1", "2"), NUMBERS),
        ([0.0, 1.0, None, float("nan"), 1.0, 0.0], ("0", "1"), [0, 1, None, None, 1, 0]),
        (WORDS, ("cat", "dog", "emu"), [2, 0, 1, 2, 0, 1]),
        (pa.array(WORDS, pa.large_string()), ("cat", "dog", "emu"), [2, 0, 1, 2, 0, 1]),
        (pa.array(WORDS).dictionary_encode(), ("cat", "dog", "emu"), [2, 0, 1, 2, 0, 1]),
        (["b", "", None, "a", "b", "a"], ("a", "b"), [1, None, None, 0, 1, 0]),
        ([True, False, None, True, True, False], ("False", "True"), [1, 0, None, 1, 1, 0]),
        (["two\nlines", "x"] * 3, ("two\\nlines", "x"), [0, 1] * 3),
    ],
)
def test_labels_may_be_numbers_text_or_booleans(
    tmp_path: Path, labels: Any, classes: tuple[str, ...], rows: list[int | None]
) -> None:
    source = opened("auto", write_table(tmp_path / "x.parquet", image=pa.array(BYTES), label=labels))
    assert source.classes == classes
    assert list(source.parts["train"].labels) == rows


def test_the_layout_names_the_columns_that_are_used(tmp_path: Path) -> None:
    source = opened(
        "auto", write_table(tmp_path / "x.parquet", jpg=pa.array(BYTES), breed=WORDS, text=pa.array([["a"]] * 6))
    )
    assert source.images.layout == (
        "images in column jpg, labels in column breed (text; the labels are the class names); no splits (x.parquet)"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": STRUCTS, "coarse_label": NUMBERS, "fine_label": NUMBERS},
            (
                "2 columns that may be the label, coarse_label, fine_label; data.label decides, e.g. "
                "data.label=coarse_label"
            ),
        ),
        ({"image": STRUCTS, "breed": WORDS, "width": NUMBERS}, "2 columns that may be the label, breed, width"),
        ({"image": STRUCTS, "mask": STRUCTS, "label": NUMBERS}, "set data.image to one of image, mask"),
        ({"image": ["a.png"] * 6, "label": NUMBERS}, r"the columns are image \(string\), label \(int64\)"),
        ({"image": STRUCTS, "label": [[1]] * 6}, r"no column that can be the label.*label \(list<"),
        ({"image": STRUCTS, "label": [0.5] * 6}, "column label of .* holds 0.5, which is no class"),
        ({"image": STRUCTS}, "no column that can be the label"),
    ],
)
def test_ambiguous_or_unusable_columns_are_refused_with_the_setting_or_the_types(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = write_table(
        tmp_path / "x.parquet",
        **{name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()},
    )
    with pytest.raises(ValueError, match=message) as error:
        opened("auto", path).parts  # noqa: B018
    assert "\n" not in str(error.value)


def test_settings_choose_the_image_and_label_columns(tmp_path: Path) -> None:
    reversed_images = pa.array(BYTES[::-1])
    path = write_table(
        tmp_path / "x.parquet", image=pa.array(BYTES), crop=reversed_images, coarse_label=[0, 1] * 3, fine_label=WORDS
    )
    source = opened("auto", path, image="crop", label="fine_label")
    assert [image for image, _, _ in source.parts["train"]] == BYTES[::-1]
    assert source.classes == ("cat", "dog", "emu")
    for settings, message in (
        (
            {"image": "photo"},
            "data.image: .* has no column 'photo'; its columns are image, crop, coarse_label, fine_label",
        ),
        ({"image": "image", "label": "breed"}, "data.label: .* has no column 'breed'"),
        ({"image": "fine_label", "label": "coarse_label"}, "data.image: column fine_label .* is of type string"),
    ):
        with pytest.raises(ValueError, match=message):
            opened("auto", path, **settings).parts  # noqa: B018


def test_a_column_of_bytes_that_are_not_images_is_not_the_image_column(tmp_path: Path) -> None:
    hashes = pa.array([bytes(20)] * 6)
    path = write_table(tmp_path / "x.parquet", sha1=hashes, image=pa.array([None, *BYTES[1:]]), label=NUMBERS)
    assert "images in column image" in opened("auto", path).images.layout


def test_columns_of_labels_that_are_not_used_are_reported(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0), (png(2), 1)], ["a", "b"], label="fine_label")
    table = pq.read_table(path).append_column("label", pa.array([1, 0]))
    pq.write_table(table, path)
    source = opened("auto", path)
    assert list(source.parts["train"].labels) == [1, 0]
    assert [unused.description for unused in source.images.unused] == ["other columns of labels: fine_label"]


@pytest.mark.parametrize(
    ("second_file", "message"),
    [
        (
            {"image": pa.array(BYTES), "label": pa.array(WORDS)},
            "labels in column label are whole numbers in .*train-0.* string",
        ),
        (
            {"photo": pa.array(BYTES), "label": pa.array(NUMBERS)},
            "train-1.parquet has no image column image as .*train-0",
        ),
        (
            {"image": pa.array(BYTES)},
            "train-1.parquet has no column label, which other files of the train part have",
        ),
    ],
)
def test_files_with_different_columns_are_refused_and_named(
    tmp_path: Path, second_file: dict[str, Any], message: str
) -> None:
    write_table(tmp_path / "train-0.parquet", image=pa.array(BYTES), label=NUMBERS)
    write_table(tmp_path / "train-1.parquet", **second_file)
    with pytest.raises(ValueError, match=message):
        opened("auto", tmp_path).parts  # noqa: B018


def test_a_test_part_without_a_label_column_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path / "set" / "train.parquet", image=pa.array([png(i) for i in range(20)]), label=[0, 1] * 10)
    write_table(tmp_path / "set" / "test.parquet", image=pa.array(BYTES))
    prepared = prepare(Work.at(tmp_path / "out", "prepare"), Data(path=str(tmp_path / "set")))
    assert (prepared.train_rows, prepared.test_rows) == (14, 4)
    assert "test part: none of its 6 rows has a label; left out" in caplog.text


def test_parquet_files_may_have_the_names_that_split_folders_may_have(tmp_path: Path) -> None:
    for i, name in enumerate(("training_set", "dev", "eval")):
        write_table(tmp_path / f"{name}.parquet", image=pa.array(BYTES[i:]), label=NUMBERS[i:])
    assert {name: part.rows for name, part in opened("auto", tmp_path).parts.items()} == {
        "train": 6,
        "validation": 5,
        "test": 4,
    }


def test_files_beside_the_parquet_files_are_reported(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", image=pa.array(BYTES), label=NUMBERS)
    (tmp_path / "README.md").write_text("card")
    (tmp_path / ".gitattributes").write_text("")
    (unused,) = opened("auto", tmp_path).images.unused
    assert (unused.description, unused.harmless) == ("1 file that is not Parquet: README.md", True)
    (tmp_path / "more.tar").write_bytes(b"images")
    (unused,) = opened("auto", tmp_path).images.unused
    assert (unused.description, unused.harmless) == ("2 files that are not Parquet: README.md, more.tar", False)


def test_an_image_is_named_by_its_path_or_else_by_file_and_row(tmp_path: Path) -> None:
    rows = [(png(i), i % 2) for i in range(20)]
    with_paths = write_parquet(tmp_path / "set" / "train.parquet", rows, ["a", "b"])
    work = Work.at(tmp_path / "out", "prepare")
    prepared = prepare(work, Data(path=str(with_paths.parent)))
    assert prepared.names is not None
    assert work.store.get(prepared.names).read_text().count(".png") == 20
    bare = write_table(
        tmp_path / "bare" / "x.parquet",
        image=pa.array([image for image, _ in rows]),
        label=[label for _, label in rows],
    )
    prepared = prepare(work, Data(path=str(bare)))
    assert prepared.names is not None
    assert re.findall(r"x.parquet row 7\b", work.store.get(prepared.names).read_text()) == ["x.parquet row 7"]
    table = pl.read_parquet(work.store.get(prepared.tables["datasets"]))
    assert "labels in column label" in table["layout"][0]
