"""Folders of images as people have them: which are splits, which are classes, and which images are not used."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._decode import format_of
from tasks.datasets._words import settle, shown, split_of
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.images import counts, opened, picture, tree, unused_descriptions


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


# -------------------------------------------------------------------------------------------------------- split folders

TWO_CLASSES = {"cat": 3, "dog": 3}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("training_set", "test_set"), ("train", "test")),
        (("train", "dev", "eval"), ("train", "validation", "test")),
        (("train", "eval"), ("train", "validation")),
        (("train", "eval", "test"), ("train", "validation", "test")),
        (("Training", "Validation", "Testing"), ("train", "validation", "test")),
        (("train2017", "val2017"), ("train", "validation")),
        (("trainset", "testset"), ("train", "test")),
        (("train_images", "test_images"), ("train", "test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("set/train", "set/test"), ("train", "test")),
    ],
)
def test_folders_with_common_names_of_splits_are_splits(
    tmp_path: Path, names: tuple[str, ...], splits: tuple[str, ...]
) -> None:
    root = tree(tmp_path / "set", {f"{name}/{c}": n for name in names for c, n in TWO_CLASSES.items()})
    source = opened(root)
    assert counts(source) == dict.fromkeys(splits, TWO_CLASSES)
    assert unused_descriptions(source) == []
    for name, split in zip(names, splits, strict=True):
        assert (
            f"{name.removeprefix('x/').split('/')[0]}" in source.images.layout and f"({split})" in source.images.layout
        )


def test_split_folders_without_one_for_training_are_refused(tmp_path: Path, work: Work) -> None:
    root = tree(tmp_path / "set", {f"{split}/{c}": 3 for split in ("val", "test") for c in TWO_CLASSES})
    with pytest.raises(
        ValueError,
        match="the source has test and validation, but no training part; name the folder or file of the training",
    ):
        prepare(work, Data(path=str(root)))


def test_split_folders_inside_class_folders_are_splits(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat/train": 3, "cat/test": 1, "dog/train": 2, "dog/test": 2})
    source = opened(root)
    assert counts(source) == {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 2}}
    assert "the splits the folders test, train in each of them" in source.images.layout


def test_a_folder_around_the_class_folders_is_skipped_and_named_in_the_layout(tmp_path: Path) -> None:
    source = opened(tree(tmp_path / "set", {f"archive/photos/{c}": n for c, n in TWO_CLASSES.items()}))
    assert counts(source) == {"train": TWO_CLASSES}
    assert "the 2 folders in archive/photos" in source.images.layout


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"fold1/cat": 2, "fold1/dog": 2, "fold2/cat": 2, "fold2/dog": 2},
            "two ways: fold1, fold2 all have the folders cat, dog.*train, validation and test.*data.layout=classes",
        ),
        (
            {"train/steam": 2, "train/diesel": 2, "bus": 2, "car": 2},
            "two ways: train as splits, beside which bus, car .* data.layout=classes or data.layout=splits decides",
        ),
        (
            {"train": 3, "test": 3},
            "test, train .* are called after splits and hold images directly.*data.layout=classes",
        ),
        ({"caf\u00e9": 3, "cafe\u0301": 3}, "have names that look the same, and differ in how accents are encoded"),
        ({"train/Cat": 3, "train/dog": 3, "test/cat": 1}, "Cat, cat differ between the splits in capital letters or"),
        ({"train/café": 3, "train/dog": 3, "test/cafe\u0301": 1, "test/dog": 1}, "differ between the splits"),
        ({"val/a": 1, "val/b": 1, "valid/a": 1, "train/a": 1, "train/b": 1}, "are both validation images; keep one"),
    ],
)
def test_a_layout_with_two_readings_is_refused_with_both_and_the_setting_that_decides(
    tmp_path: Path, names: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened(tree(tmp_path / "set", names)).parts  # noqa: B018
    assert "\n" not in str(error.value)


def test_data_layout_decides_between_two_readings(tmp_path: Path) -> None:
    trains = tree(tmp_path / "trains", {"train/steam": 2, "train/diesel": 2, "bus": 2, "car": 2})
    assert counts(opened(trains, layout="classes")) == {"train": {"bus": 2, "car": 2, "train": 4}}
    splits = opened(trains, layout="splits")
    assert counts(splits) == {"train": {"diesel": 2, "steam": 2}}
    assert sum(unused.lost_images for unused in splits.images.unused) == 4
    flat = tree(tmp_path / "flat", {"train": 3, "test": 3})
    assert counts(opened(flat, layout="classes")) == {"train": {"test": 3, "train": 3}}
    with pytest.raises(ValueError, match=r"none of the folders cat, dog .* is called train"):
        opened(tree(tmp_path / "plain", TWO_CLASSES), layout="splits").parts  # noqa: B018


# ----------------------------------------------------------------------------- images that are not used, image formats


def test_test_images_without_labels_are_logged_and_allowed(tmp_path: Path, work: Work, caplog: Any) -> None:
    root = tree(tmp_path / "set", {"train/cat": 9, "train/dog": 9, "test": 9})
    assert prepare(work, Data(path=str(root))).test_rows == 4
    assert "not used: 9 images in test without class folders, and so without labels" in caplog.text
    unknown = tree(tmp_path / "unknown", {"train/cat": 3, "train/dog": 3, "test/unknown": 4})
    assert unused_descriptions(opened(unknown)) == ["4 images in test without class folders, and so without labels"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({".": 4}, "4 of 44 images: 4 images in data.path beside the class folders"),
        (
            {"train/cat": 1, "train/dog": 1, "test/cat": 1, "extra": 2},
            "2 of 5 images: 2 images in extra, which is no split",
        ),
    ],
)
def test_losing_more_than_one_percent_of_the_images_is_refused(
    tmp_path: Path, work: Work, extra: dict[str, int], message: str
) -> None:
    base = {"cat": 20, "dog": 20} if "." in extra else {}
    root = tree(tmp_path / "set", {**base, **extra})
    with pytest.raises(ValueError, match=f"these would not be used: {message}.*data.on_bad=drop") as error:
        prepare(work, Data(path=str(root)))
    assert "\n" not in str(error.value)


def test_losing_less_than_one_percent_of_the_images_is_a_warning_and_recorded(
    tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    import polars as pl

    root = tree(tmp_path / "set", {"cat": 60, "dog": 60, ".": 1})
    prepared = prepare(work, Data(path=str(root)))
    description = "1 image in data.path beside the class folders"
    assert [record.levelname for record in caplog.records if description in record.message] == ["WARNING"]
    table = pl.read_parquet(work.store.get(prepared.tables["datasets"]))
    assert table["left_out"].to_list() == [[description]] * 3
    assert set(table["layout"]) == {"the classes are the 2 folders in data.path; there are no split folders"}
    assert set(table["source"]) == {"folder"}


def test_a_class_folder_without_images_is_refused_unless_allowed(tmp_path: Path, work: Work, caplog: Any) -> None:
    root = tree(tmp_path / "set", {"cat": 9, "dog": 9, "notes": 0, "void": 0})
    (root / "notes" / "1.txt").write_text("no class")
    (root / "ring").mkdir()
    np.save(root / "ring" / "1.npy", np.zeros((8, 8, 3)))
    message = (
        r"these would not be used: the classes ring \(1 file, none of which is an image\), void \(an empty folder\); "
        r".*data\.on_bad=drop"
    )
    with pytest.raises(ValueError, match=message):
        prepare(work, Data(path=str(root)))
    assert prepare(work, Data(path=str(root), on_bad="drop")).classes == ("cat", "dog")
    assert (
        "not used: class ring" in caplog.text and "the folder notes, which holds no images (1 text file)" in caplog.text
    )


def test_images_are_recognised_by_content_and_not_by_suffix(tmp_path: Path, work: Work) -> None:
    root = tmp_path / "set"
    forms = {
        "cat": ("JPEG", ".JPG"),
        "dog": ("JPEG", ".jfif"),
        "emu": ("PNG", ""),
        "fox": ("WEBP", ".png"),
        "gnu": ("BMP", ".dat"),
    }
    for name, (form, suffix) in forms.items():
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}{suffix}").write_bytes(picture(10 * len(name) + i + sum(map(ord, name)), form))
    source = opened(root)
    assert counts(source) == {"train": dict.fromkeys(forms, 4)}
    assert "12 files are images by content, not by suffix" in source.images.layout
    assert prepare(work, Data(path=str(root))).train_rows == 14
    assert unused_descriptions(source) == []


def test_images_of_a_format_that_is_not_read_are_refused_with_the_formats_name(tmp_path: Path, work: Work) -> None:
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3})
    for name, suffix in (("cat", ".heic"), ("dog", ".jpg")):
        (root / name / f"phone{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    with pytest.raises(ValueError, match=r"HEIC image, a format that is not read: 2 \(rows 3 \(cat/phone.heic\)"):
        prepare(work, Data(path=str(root)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"])
def test_each_image_format_is_recognised_by_its_first_bytes(form: str) -> None:
    assert format_of(picture(1, form)[:512]) == form
    assert format_of(b"BM and other words") is None
    assert format_of(b"Paris is no PPM") is None


# ------------------------------------------------------------------------- links, files left by tools, names in UTF-8


def test_a_folder_is_read_once_however_often_links_lead_to_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3})
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "dog" / "up").symlink_to(tmp_path)
    elsewhere = tree(tmp_path / "elsewhere", {"emu": 2})
    (root / "emu").symlink_to(elsewhere / "emu")
    (elsewhere / "emu" / "round").symlink_to(elsewhere)
    source = opened(root)
    assert counts(source) == {"train": {"cat": 3, "dog": 3, "emu": 2}}
    assert "links to folders that are read already: cat/again, dog/up, emu/round/emu" in unused_descriptions(source)[-1]


def test_a_class_folder_that_links_to_another_class_is_refused_as_lost(tmp_path: Path, work: Work) -> None:
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3})
    (root / "zebra").symlink_to("dog")
    with pytest.raises(ValueError, match=r"the class zebra .a link to a folder that is read already"):
        prepare(work, Data(path=str(root)))


def test_broken_links_circular_links_and_pipes_are_reported_and_never_waited_for(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3})
    (root / "cat" / "gone.png").symlink_to("nowhere")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    os.mkfifo(root / "dog" / "pipe.png")
    (unused,) = opened(root).images.unused
    assert unused.description == "4 links to nothing, or no files: cat/gone.png, dog/pipe.png, one, two"
    assert unused.lost_images == 4


def test_files_left_by_systems_and_notebooks_are_not_data(
    tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "burnish")
    root = tree(
        tmp_path / "set", {"cat": 8, "dog": 8, ".ipynb_checkpoints": 1, "cat/.ipynb_checkpoints": 1, "__MACOSX/cat": 1}
    )
    for name in (".DS_Store", "cat/._000.png", "dog/Thumbs.db", "dog/.secret"):
        (root / name).write_bytes(b"\0\5\x16\7")
    assert prepare(work, Data(path=str(root))).classes == ("cat", "dog")
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels["not used: 6 files or folders left by systems, notebooks and tools"] == "INFO"
    assert levels["not used: 1 file or folder hidden by a dot before the name, without images"] == "INFO"


@pytest.mark.parametrize("name", [b"caf\xe9", "圆形 ñ 'x\"".encode(), b"two\nlines"])
def test_names_that_are_not_utf8_or_not_printable_are_read_and_shown_escaped(
    tmp_path: Path, work: Work, name: bytes
) -> None:
    root = tree(tmp_path / "set", {"cat": 9, "dog": 9})
    (root / "cat").rename(root / os.fsdecode(name))
    (root / "dog" / os.fsdecode(name + b".png")).write_bytes(picture(99))
    prepared = prepare(work, Data(path=str(root)))
    assert set(prepared.classes) == {shown(os.fsdecode(name)), "dog"}
    assert len(load_arrays(work.store, prepared)[1]) == 19
    assert prepared.names is not None
    assert f"dog/{shown(os.fsdecode(name))}.png" in json.loads(work.store.get(prepared.names).read_text())


def test_the_fingerprint_follows_names_that_are_not_utf8_and_unused_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3})
    before = opened(root).fingerprint()
    (root / "notes.bin").write_bytes(b"\0")
    after = opened(root).fingerprint()
    (root / "cat" / "000.png").rename(root / "cat" / os.fsdecode(b"caf\xe9.png"))
    assert len({before, after, opened(root).fingerprint()}) == 3


# ----------------------------------------------------------------------------------------------------------- zip files


def zip_with_resource_fork(root: Path, target: Path) -> Path:
    """Zip a folder as macOS does, with a file of its own below __MACOSX."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root.parent))
        archive.writestr("__MACOSX/set/cat/._000.png", b"\0\5\x16\7")
    return target


def test_a_zip_is_read_as_the_folder_that_it_unpacks_to(tmp_path: Path, work: Work) -> None:
    root = tree(tmp_path / "set", {f"{split}/{c}": 4 for split in ("train", "test") for c in TWO_CLASSES})
    archive = zip_with_resource_fork(root, tmp_path / "set.zip")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(archive, "a") as appended:
        appended.writestr("set/train/cat/000.png", (root / "train" / "cat" / "000.png").read_bytes())
    folder, zipped = opened(root), opened(archive)
    assert counts(zipped) == counts(folder) and zipped.classes == folder.classes
    assert "1 file or folder with the name of a later one in the zip" in unused_descriptions(zipped)
    from_folder, from_zip = (prepare(work, Data(path=str(path))) for path in (root, archive))
    assert from_folder.images.sha256 == from_zip.images.sha256 and from_folder.labels.sha256 == from_zip.labels.sha256
    assert not list(tmp_path.glob("set.zip/*")) and sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "set",
        "set.zip",
    ]
    before = zipped.fingerprint()
    os.utime(archive, (1, 1))
    assert opened(archive).fingerprint() == before


def test_a_zip_that_is_damaged_cut_off_or_encrypted_is_refused_with_the_reason(tmp_path: Path, work: Work) -> None:
    archive = zip_with_resource_fork(tree(tmp_path / "set", {"cat": 4, "dog": 4}), tmp_path / "set.zip")
    content = archive.read_bytes()
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content.replace(b"IDAT", b"XXXX", 1))
    with pytest.raises(ValueError, match=r"undecodable image: 1 \(row 0 \(set/cat/000.png\)\)"):
        prepare(work, Data(path=str(damaged)))
    cut = tmp_path / "cut.zip"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="accepted is a folder of images"):
        opened(cut).parts  # noqa: B018
    encrypted = tmp_path / "encrypted.zip"
    directory = content.index(b"PK\x01\x02")
    # Bit 0 of the flags in the central directory says that a member is encrypted.
    encrypted.write_bytes(content[: directory + 8] + b"\x01" + content[directory + 9 :])
    with pytest.raises(ValueError, match="is encrypted"):
        opened(encrypted).parts  # noqa: B018


# ------------------------------------------------------------------------------------------------- names of splits


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training_set", ("train", ())),
        ("Test", ("test", ())),
        ("seg_train", ("train", ("seg",))),
        ("trains", None),
        ("eval", ("evaluation", ())),
        ("contest", None),
        ("train_test", None),
        ("invalid", None),
        ("val2017", ("validation", ())),
    ],
)
def test_names_of_splits_are_told_from_other_names(name: str, expected: Any) -> None:
    assert split_of(name) == expected


def test_an_evaluation_folder_takes_the_role_of_the_split_that_is_missing() -> None:
    assert settle({"train", "validation", "evaluation"})["evaluation"] == "test"
    assert settle({"train", "test", "evaluation"})["evaluation"] == "validation"
