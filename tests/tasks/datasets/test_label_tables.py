"""Tables of labels beside images, as the hub, Kaggle and users write them, also where folders contradict them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.caching.work import Work
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.images import counts, opened, picture, tree, unused_descriptions

if TYPE_CHECKING:
    from pathlib import Path


def write_images(root: Path, *names: str) -> Path:
    """Write an image of its own content to each of these paths."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(sum(name.encode())))
    return root


def kaggle_set(root: Path) -> Path:
    """Write train/ and test/ without class folders, a table of ids without suffix, and a sample submission."""
    write_images(root, *(f"train/{i}.jpg" for i in range(6)), "test/70.jpg", "test/71.jpg")
    (root / "labels.csv").write_text("id,breed\n" + "".join(f"{i},{('pug', 'husky')[i % 2]}\n" for i in range(6)))
    (root / "sample_submission.csv").write_text("id,label\n70,pug\n71,pug\n")
    return root


def test_labels_come_from_a_table_of_ids_and_not_from_a_sample_submission(tmp_path: Path) -> None:
    source = opened(kaggle_set(tmp_path / "set"))
    assert counts(source) == {"train": {"husky": 3, "pug": 3}}
    assert "labels.csv (images in column id, labels in column breed); the splits are train" in source.images.layout
    assert unused_descriptions(source) == [
        "2 images in test have no label in any table",
        "1 file that is no image, by content: sample_submission.csv",
    ]
    assert not sum(unused.lost_images for unused in source.images.unused)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_hubs_metadata_files_are_read_per_split(tmp_path: Path, form: str) -> None:
    for split, count in (("train", 4), ("validation", 2)):
        folder = write_images(tmp_path / split, *(f"{i}.png" for i in range(count)))
        rows = [{"file_name": f"{i}.png", "text": f"no {i}", "label": i % 2} for i in range(count)]
        if form == "csv":
            lines = ["file_name,text,label", *(",".join(map(str, row.values())) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (folder / f"metadata.{form}").write_text("\n".join(lines))
    source = opened(tmp_path)
    assert counts(source) == {"train": {"0": 2, "1": 2}, "validation": {"0": 1, "1": 1}}


def test_data_path_may_be_a_table_that_also_names_the_splits(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"all/{i}.png" for i in range(12)))
    rows = [f"all/{i}.png;{i};{'Train' if i < 9 else 'Test'}" for i in range(12)]
    (tmp_path / "mine.csv").write_text("\ufeffpath;target;split\n" + "\n".join(rows))
    source = opened(tmp_path / "mine.csv")
    assert source.classes == tuple(map(str, range(12))), "numbers are sorted as numbers"
    assert {split: part.rows for split, part in source.parts.items()} == {"train": 9, "test": 3}
    assert len(source.fingerprint()) == 64


def test_folders_that_a_table_contradicts_are_refused_with_both_readings(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"images_part_1": 4, "images_part_2": 4})
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    (root / "meta.csv").write_text("image,dx\n" + "".join(f"{n},{('nv', 'mel')[i % 2]}\n" for i, n in enumerate(names)))
    with pytest.raises(ValueError, match=r"two ways.*data\.layout=classes.*dx of meta\.csv .set data\.label=dx"):
        opened(root).parts  # noqa: B018
    assert set(counts(opened(root, layout="classes"))["train"]) == {"images_part_1", "images_part_2"}
    assert counts(opened(root, label="dx")) == {"train": {"mel": 4, "nv": 4}}
    (root / "meta.csv").write_text("image,width\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    assert set(counts(opened(root))["train"]) == {"images_part_1", "images_part_2"}, "a width is no label"
    numbered = "image,label\n" + "".join(f"{n},{int('part_2' in n)}\n" for n in names)
    (root / "meta.csv").write_text(numbered)
    assert set(counts(opened(root))["train"]) == {"images_part_1", "images_part_2"}, (
        "the table numbers the classes of the folders"
    )
    agreeing = "image,class\n" + "".join(f"{n},{n.split('/')[0]}\n" for n in names)
    (root / "meta.csv").write_text(agreeing)
    assert set(counts(opened(root))["train"]) == {"images_part_1", "images_part_2"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,a,b\n0.png,x,y\n1.png,y,x\n", "no column of t.csv is called label.*the columns are a, b"),
        ("file,class,target\n0.png,x,y\n1.png,y,x\n", "the columns are class, target"),
        ("file,label\n0.png,x\n0.png,y\n", "0.png has two labels, x and y"),
        ("file,label\nnone.png,x\n", "no table .* that names its images, but t.csv"),
        ("file,label\n0.png,\xff\n", "t.csv cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, table: str, message: str) -> None:
    root = write_images(tmp_path / "set", "0.png", "1.png")
    (root / "t.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        opened(root / "t.csv").parts  # noqa: B018
    assert "\n" not in str(error.value)


def test_images_without_a_row_rows_without_an_image_and_empty_labels_are_refused(tmp_path: Path) -> None:
    work = Work.at(tmp_path / "out", "prepare")
    root = write_images(tmp_path / "set", *(f"{i}.png" for i in range(10)))
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(9)]
    (root / "t.csv").write_text("\n".join(["file,label", *rows, "77.png,a"]))
    message = (
        "2 of 11 images: 1 image in data.path has no label in any table; 1 row of t.csv that names no image: 77.png"
    )
    with pytest.raises(ValueError, match=message):
        prepare(work, Data(path=str(root)))
    (root / "t.csv").write_text("\n".join(["file,label", *rows, "9.png,"]))
    with pytest.raises(ValueError, match=r"null label: 1 \(row 9 \(9.png\)\)"):
        prepare(work, Data(path=str(root)))


def test_an_image_name_in_several_folders_is_resolved_by_the_tables_split_or_refused(tmp_path: Path) -> None:
    names: dict[str, Any] = {f"{split}/{i}.png": None for split in ("train", "test") for i in range(3)}
    root = write_images(tmp_path / "set", *names)
    for split in ("train", "test"):
        (root / f"{split}.csv").write_text("id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(3)))
    assert counts(opened(root)) == {split: {"a": 2, "b": 1} for split in ("train", "test")}
    (root / "train.csv").rename(root / "labels.csv")
    (root / "test.csv").unlink()
    with pytest.raises(ValueError, match=r"labels.csv names '0', which may be test/0.png, train/0.png"):
        opened(root).parts  # noqa: B018
