"""The prepare stage: splits, limits, bad rows, sizes and modes of images, and the sources that it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.caching.work import Work
from tasks.datasets._arrays import SPLITS, load_arrays
from tasks.prepare import prepare
from tasks.records import Data, Prepared
from tests.support.paths import SHARED

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here (BURNISH_SHARED)")


BAD_ROWS = {
    "undecodable image": [16, 31, 78, 114, 151],
    "empty image": [30, 39, 65],
    "null image": [104, 165],
    "label out of range": [60, 62, 100, 110],
}
"""Numbers of the bad rows of the shared data set `broken`, per reason."""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


def rows_by_split(work: Work, prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Return the row of the table `datasets` of each split."""
    rows = pl.read_parquet(work.store.get(prepared.tables["datasets"])).to_dicts()
    return {row["split"]: row for row in rows}


def write_folder(
    root: Path, counts: dict[str, int], size: tuple[int, int] = (6, 6), mode: str = "RGB", seed: int = 0
) -> Path:
    """Write random PNG files, `counts` of them per folder below the root, and return the root."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (size[1], size[0], *((len(mode),) if len(mode) > 1 else ()))
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(root / name / f"{i:03}.png")
    return root


def test_digits_are_decoded_split_and_measured(work: Work) -> None:
    prepared = prepare(work, Data())
    arrays = load_arrays(work.store, prepared)
    images, labels, splits = arrays
    assert isinstance(images, np.memmap)
    assert images.shape == (1797, 8, 8, 1)
    assert (images.dtype, labels.dtype, splits.dtype) == (np.uint8, np.int64, np.uint8)
    assert not images.flags.writeable
    assert (prepared.channels, prepared.image_size, prepared.classes) == (1, 8, tuple("0123456789"))
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (1294, 144, 359)
    assert np.bincount(splits).tolist() == [1294, 144, 359]
    train = images[arrays.rows_of("train")] / 255
    assert prepared.mean == pytest.approx([train.mean()])
    assert prepared.std == pytest.approx([train.std()])
    for split, share in zip(SPLITS, (0.72, 0.08, 0.2), strict=True):
        counts = np.bincount(labels[arrays.rows_of(split)], minlength=10)
        assert np.abs(counts - share * np.bincount(labels)).max() < 2
    rows = rows_by_split(work, prepared)
    assert [rows[s]["rows"] for s in ("train", "validation", "test")] == [1294, 144, 359]
    assert rows["test"]["class_rows"] == np.bincount(labels[arrays.rows_of("test")]).tolist()
    assert rows["test"]["class_names"] == list(prepared.classes)
    image_columns = {key: rows["test"][f"images_{key}"] for key in ("path", "sha256", "size_bytes")}
    assert image_columns == prepared.images.model_dump(include=set(image_columns))
    assert (rows["train"]["class_rows_min"], rows["train"]["classes"]) == (min(rows["train"]["class_rows"]), 10)
    assert rows["train"]["path"] is None


def test_equal_settings_give_equal_files_and_another_seed_gives_other_splits(work: Work) -> None:
    first, second, with_another_seed = (prepare(work, Data(seed=seed)) for seed in (3, 3, 4))
    assert first == second
    assert first.splits.sha256 != with_another_seed.splits.sha256
    assert first.images.sha256 == with_another_seed.images.sha256


@needs_shared
def test_a_source_with_bad_rows_is_refused_with_the_number_of_every_row_and_advice(work: Work) -> None:
    with pytest.raises(ValueError, match=r"^14 of 200 rows of parquet .*data\.on_bad=drop$") as error:
        prepare(work, Data(source="parquet", path=str(SHARED / "broken")))
    text = str(error.value)
    assert "\n" not in text
    for reason, rows in BAD_ROWS.items():
        group = re.search(rf"train part, {reason}: {len(rows)} \(rows? (.*?)\)(;|:|$)", text)
        assert group, reason
        assert [int(n) for n in re.findall(r"(?:^|, )(\d+)", group[1])] == rows
    assert not list((work.store.root / "tmp").iterdir())


@needs_shared
def test_with_on_bad_drop_bad_rows_are_dropped_and_recorded(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "burnish")
    prepared = prepare(work, Data(source="parquet", path=str(SHARED / "broken"), on_bad="drop"))
    rows = rows_by_split(work, prepared)
    assert sum(row["rows"] for row in rows.values()) == 186
    assert load_arrays(work.store, prepared)[0].shape == (186, 32, 32, 3)
    train = rows["train"]
    assert train["dropped"] == 14
    assert train["dropped_rows"] == sorted(row for group in BAD_ROWS.values() for row in group)
    for row, reason in zip(train["dropped_rows"], train["dropped_reasons"], strict=True):
        assert row in BAD_ROWS[reason.split(":")[0].split(" [")[0]]
    assert rows["test"]["dropped_rows"] == rows["validation"]["dropped_reasons"] == []
    assert sum(row["duplicates_within"] + row["duplicates_across"] for row in rows.values()) == 6
    assert "dropped 14 of 200 rows" in caplog.text


def test_bad_rows_of_every_part_are_named_in_one_refusal(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {f"{s}/{c}": 4 for s in ("train", "val", "test") for c in "ab"})
    (root / "train" / "a" / "001.png").write_bytes(b"")
    (root / "val" / "b" / "003.png").write_text("not an image")
    (root / "test" / "a" / "002.png").write_bytes((root / "test" / "a" / "000.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="3 of 24 rows") as error:
        prepare(work, Data(source="folder", path=str(root)))
    for part in (
        "train part, empty image: 1 (row 1 (train/a/001.png))",
        "validation part, undecodable image: 1 (row 7 (val/b/003.png))",
        "test part, undecodable image: 1 (row 2 (test/a/002.png))",
    ):
        assert part in str(error.value)
    rows = rows_by_split(work, prepare(work, Data(source="folder", path=str(root), on_bad="drop")))
    assert {split: row["dropped_rows"] for split, row in rows.items()} == {"train": [1], "validation": [7], "test": [2]}
    assert {split: row["rows"] for split, row in rows.items()} == {"train": 7, "validation": 7, "test": 7}


def write_parquet(path: Path, labels: list[int | None], part: str, names: str = "ab") -> None:
    """Write a Parquet file of one part: distinct images with these labels, of classes with these names."""
    images = []
    for i in range(len(labels)):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": ""})
    meta = json.dumps({"info": {"features": {"label": {"names": list(names)}}}})
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": meta},
    )
    path.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}, schema=schema), path / f"{part}.parquet")


def test_labels_are_checked_even_in_rows_that_a_limit_leaves_out(tmp_path: Path, work: Work) -> None:
    write_parquet(tmp_path / "x", [0, 1] * 20 + [None, 7], "train")
    write_parquet(tmp_path / "x", [0, 1] * 4, "test")
    data = Data(source="parquet", path=str(tmp_path / "x"), train_limit=10, test_limit=4)
    with pytest.raises(ValueError, match=r"null label: 1 \(row 40\); train part, label out of range: 1 \(row 41\)"):
        prepare(work, data)
    prepared = prepare(work, data.model_copy(update={"on_bad": "drop"}))
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (9, 1, 4)
    assert rows_by_split(work, prepared)["train"]["dropped_rows"] == [40, 41]


def test_a_test_part_without_labels_is_left_out(tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "x", [0, 1] * 10, "train")
    write_parquet(tmp_path / "x", [-1] * 5, "test")
    prepared = prepare(work, Data(source="parquet", path=str(tmp_path / "x")))
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (14, 2, 4)
    assert "test part: none of its 5 rows has a label; left out" in caplog.text


def test_a_part_in_which_every_label_is_bad_is_refused(tmp_path: Path, work: Work) -> None:
    write_parquet(tmp_path / "x", [5, 6, 7], "train")
    with pytest.raises(ValueError, match=r"3 of 3 rows.*label out of range: 3 \(rows 0, 1, 2\)"):
        prepare(work, Data(source="parquet", path=str(tmp_path / "x")))
    with pytest.raises(ValueError, match="0 usable images are too few"):
        prepare(work, Data(source="parquet", path=str(tmp_path / "x"), on_bad="drop"))


def test_only_selected_rows_are_decoded(tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", {f"{s}/{c}": 30 for s in ("train", "test") for c in "ab"})
    decoded_images = []
    from tasks.datasets import _decode

    original_decode = _decode.decode
    monkeypatch.setattr(
        _decode, "decode", lambda image, *sizes: decoded_images.append(image) or original_decode(image, *sizes)
    )
    data = Data(source="folder", path=str(root), train_limit=20, test_limit=10, validation_fraction=0.2)
    prepared = prepare(work, data)
    assert len(decoded_images) == 30
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (16, 4, 10)
    assert rows_by_split(work, prepared)["test"]["class_rows"] == [5, 5]


def test_images_that_are_not_square_are_refused_without_an_image_size(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6}, size=(8, 6))
    with pytest.raises(ValueError, match=r"8x6 pixels in row .* of the train part .* data\.image_size=6, the median"):
        prepare(work, Data(source="folder", path=str(root)))
    prepared = prepare(work, Data(source="folder", path=str(root), image_size=5))
    assert load_arrays(work.store, prepared)[0].shape == (12, 5, 5, 3)


def test_images_of_two_sizes_are_refused_without_an_image_size(tmp_path: Path, work: Work) -> None:
    root = write_folder(write_folder(tmp_path / "set", {"a": 6}), {"b": 6}, size=(9, 9))
    with pytest.raises(ValueError, match=r"there are 6x6 and 9x9 pixels in row 6 of the train part \(b/000.png\)"):
        prepare(work, Data(source="folder", path=str(root)))


def test_grey_images_have_one_channel_and_a_mix_of_grey_and_colour_has_three(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"a": 8, "b": 8}, mode="L")
    grey = prepare(work, Data(source="folder", path=str(root)))
    assert grey.channels == 1
    assert len(grey.mean) == len(grey.std) == 1
    Image.open(root / "b" / "007.png").convert("RGBA").save(root / "b" / "007.png")
    mixed = prepare(work, Data(source="folder", path=str(root)))
    assert mixed.channels == 3
    assert len(mixed.mean) == 3
    grey_images, rgb_images = load_arrays(work.store, grey)[0], load_arrays(work.store, mixed)[0]
    assert np.array_equal(np.repeat(grey_images, 3, axis=3), rgb_images)


def test_transparent_pixels_become_white(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    Image.new("RGBA", (6, 6), (0, 0, 0, 0)).save(root / "a" / "000.png")
    images = load_arrays(work.store, prepare(work, Data(source="folder", path=str(root))))[0]
    assert (images[0] == 255).all()


def test_a_grey_image_and_its_rgb_copy_are_duplicates(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 6, "train/b": 6, "test/a": 3, "test/b": 3})
    grey = Image.open(root / "train" / "a" / "000.png").convert("L")
    grey.save(root / "train" / "a" / "000.png")
    grey.save(root / "train" / "a" / "001.png")
    grey.convert("RGB").save(root / "test" / "b" / "000.png")
    rows = rows_by_split(work, prepare(work, Data(source="folder", path=str(root), seed=1)))
    assert sum(row["duplicates_within"] + row["duplicates_across"] for row in rows.values()) == 2
    assert rows["test"]["duplicates_across"] == 1


def test_a_channel_of_one_value_does_not_divide_by_zero(tmp_path: Path, work: Work) -> None:
    root = tmp_path / "set"
    for name, value in (("a", 77), ("b", 77)):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (4, 4), (value, i, i)).save(root / name / f"{i}.png")
    prepared = prepare(work, Data(source="folder", path=str(root)))
    assert prepared.mean[0] == 77 / 255
    assert prepared.std[0] == 1.0
    assert prepared.std[1] < 0.1


def test_a_set_too_small_to_split_is_refused(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="too few"):
        prepare(work, Data(source="folder", path=str(root)))


def test_a_class_without_training_images_is_refused_unless_on_bad_is_drop(
    tmp_path: Path, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "test/a": 2, "test/c": 2})
    data = Data(source="folder", path=str(root))
    with pytest.raises(
        ValueError, match=r"these would not be used: the class c \(no training image, 2 in other parts\); .*on_bad=drop"
    ):
        prepare(work, data)
    prepare(work, data.model_copy(update={"on_bad": "drop"}))
    assert "train: no image of 1 class: c" in caplog.text
    assert "test: no image of 1 class: b, so that nothing is measured of them" in caplog.text


def test_a_train_split_with_a_single_class_is_refused(tmp_path: Path, work: Work) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 5, "test/b": 5})
    with pytest.raises(ValueError, match="the train split has 4 images of 1 classes, which is too few"):
        prepare(work, Data(source="folder", path=str(root), on_bad="drop"))


def test_all_images_may_be_test_images_normalised_with_the_settings_mean_and_std(work: Work) -> None:
    prepared = prepare(work, Data(source="digits", test_fraction=1, mean=(0.3,), std=(0.4,)))
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (0, 0, 1797)
    assert (prepared.mean, prepared.std) == ((0.3,), (0.4,))
    assert set(rows_by_split(work, prepared)) == {"test"}
    with pytest.raises(ValueError, match=r"data\.mean, data\.std: 3 values for images of 1 channels"):
        prepare(work, Data(source="digits", mean=(0.3, 0.3, 0.3), std=(0.4, 0.4, 0.4)))


@needs_shared
def test_the_validation_part_is_the_test_split_of_a_source_without_test_images(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "burnish")
    data = Data(source="parquet", path=str(SHARED / "tiny-imagenet"), train_limit=800, test_limit=200)
    prepared = prepare(work, data)
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (720, 80, 200)
    assert (prepared.channels, prepared.image_size, len(prepared.classes)) == (3, 64, 200)
    assert rows_by_split(work, prepared)["test"]["class_rows"] == [1] * 200
    assert "the source's validation images are the test images" in caplog.text


@needs_shared
def test_one_image_per_class_is_split_at_random_with_a_warning(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "burnish")
    data = Data(source="parquet", path=str(SHARED / "imagenet-1k-sample"), image_size=16, train_limit=90, test_limit=10)
    prepared = prepare(work, data)
    assert (prepared.train_rows, prepared.validation_rows, prepared.test_rows) == (81, 9, 10)
    assert "at random (too many classes of one image to stratify)" in caplog.text
    assert "train: no image of 919 classes" in caplog.text


@needs_shared
def test_limits_on_cifar10_are_stratified(work: Work) -> None:
    data = Data(source="parquet", path=str(SHARED / "cifar10"), train_limit=300, test_limit=100)
    prepared = prepare(work, data)
    rows = rows_by_split(work, prepared)
    assert rows["train"]["class_rows"] == [27] * 10
    assert rows["validation"]["class_rows"] == [3] * 10
    assert rows["test"]["class_rows"] == [10] * 10
    assert prepared.classes[0] == "airplane"
