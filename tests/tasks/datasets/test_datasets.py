"""Every source of images on small files in its own layout, and on the shared data as it is."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.datasets import open_source
from tasks.datasets._decode import Bad, decode
from tasks.records import Data, plugins
from tests.support.files import (
    IMAGE,
    as_if_huge,
    encoded,
    needs_shared,
    opened,
    png,
    values,
    write_images,
    write_parquet,
    write_tiny,
    zipped,
)
from tests.support.paths import SHARED

# ------------------------------------------------------------------------------------------------------------ digits


def test_sources_are_found_by_file_name() -> None:
    assert plugins("datasets") == ("cifar10", "cifar100", "digits", "folder", "parquet", "tiny_imagenet")


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
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


# ----------------------------------------------------------------------------------------------------------- parquet


def test_parquet_reads_wanted_rows_of_several_files_numbered_through(tmp_path: Path) -> None:
    for number, start in enumerate((0, 7, 14)):
        rows = [(png(value), value % 2) for value in range(start, start + 7)]
        write_parquet(tmp_path / "data" / f"train-0000{number}-of-00003.parquet", rows, ["a", "b"])
    source = opened("parquet", tmp_path)
    part = source.parts["train"]
    assert source.classes == ("a", "b")
    assert part.rows == 21
    assert values(part) == list(range(21))
    assert values(part, [2, 3, 6, 7, 20]) == [2, 3, 6, 7, 20]
    assert list(part.labels) == [value % 2 for value in range(21)]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "valid-00000-of-00001", "test-00000-of-00001"),
        ("data/train", "data/validation", "data/test"),
        ("default/train/0000", "default/val/0000", "default/test/0000"),
    ],
)
def test_parquet_parts_are_named_by_file_or_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    for value, name in enumerate(names):
        write_parquet(tmp_path / f"{name}.parquet", [(png(value), 0)], ["a", "b"])
    parts = opened("parquet", tmp_path).parts
    assert {name: values(part) for name, part in parts.items()} == {"train": [0], "validation": [1], "test": [2]}


def test_parquet_of_any_name_is_one_set_without_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "broken-00000-of-00001.parquet", [(png(7), 0)], ["a", "b"])
    assert list(opened("parquet", tmp_path).parts) == ["train"]
    assert values(opened("parquet", tmp_path / "broken-00000-of-00001.parquet").parts["train"]) == [7]


def test_parquet_finds_the_image_and_the_label_column_by_type_and_metadata(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", [(png(1), 1), (png(2), None)], ["a", "b"], image="photo", label="fine_label"
    )
    source = opened("parquet", path)
    assert source.classes == ("a", "b")
    assert list(source.parts["train"].labels) == [1, None]
    assert values(source.parts["train"]) == [1, 2]


def test_parquet_without_class_names_numbers_them(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0), (png(2), 2), (png(3), -1)])
    assert opened("parquet", path).classes == ("0", "1", "2")


def test_parquet_null_struct_and_null_bytes_are_null_images(tmp_path: Path) -> None:
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


def _text(folder: Path) -> Path:
    (folder / "x.parquet").write_text("not Parquet at all")
    return folder / "x.parquet"


def _cut_off(folder: Path) -> Path:
    path = write_parquet(folder / "x.parquet", [(png(i), 0) for i in range(9)], ["a", "b"])
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _no_image(folder: Path) -> Path:
    pq.write_table(pa.table({"picture": ["a"], "label": [0]}), folder / "x.parquet")
    return folder


def _no_label(folder: Path) -> Path:
    table = pa.table({"img": pa.array([{"bytes": png(), "path": ""}], IMAGE), "label": [["cat"]]})
    pq.write_table(table, folder / "x.parquet")
    return folder


def _two_names(folder: Path) -> Path:
    write_parquet(folder / "train.parquet", [(png(), 0)], ["a", "b"])
    write_parquet(folder / "test.parquet", [(png(), 0)], ["b", "a"])
    return folder


def _far_label(folder: Path) -> Path:
    return write_parquet(folder / "x.parquet", [(png(), 0), (png(), 10**12)])


def _nameless(folder: Path) -> Path:
    write_parquet(folder / "train.parquet", [(png(), 0)], ["a", "b"])
    write_parquet(folder / "more.parquet", [(png(), 0)], ["a", "b"])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_files, "holds no .parquet files"),
        (_two_sets, "holds 2 data sets .in one, two."),
        (_text, "x.parquet cannot be read as Parquet"),
        (_cut_off, "x.parquet cannot be read as Parquet"),
        (_no_image, r"needs one image column.*picture \(string\), label \(int64\)"),
        (_no_label, r"no column that can be the label.*label \(list<.*: string>\)"),
        (_two_names, "do not agree on the class names"),
        (_far_label, "no class names, and labels up to 1000000000000 in 2 rows"),
        (_nameless, "more.parquet begin with none of train"),
        (lambda folder: folder / "nothing" / "at" / "all", "is not there; give a .parquet file"),
    ],
)
def test_parquet_says_what_is_wrong_in_one_line(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        opened("parquet", make(tmp_path)).parts  # noqa: B018
    assert "\n" not in str(error.value)


def test_parquet_damaged_pages_are_one_clear_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [(os.urandom(2000), 0) for _ in range(9)], ["a", "b"])
    content = bytearray(path.read_bytes())
    # the first page's header
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as Parquet"):
        list(opened("parquet", path).parts["train"])


class Hub:
    """Stands in for the hub's API: what it lists is what lies in a folder."""

    def __init__(self, root: Path, converted: tuple[str, ...] = ()) -> None:
        self.root, self.converted, self.fetched = root, converted, []

    def dataset_info(self, repo: str, revision: str | None = None) -> Any:
        from huggingface_hub.hf_api import DatasetInfo

        names = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*.parquet")]
        names = [name for name in names if (name in self.converted) == (revision == "refs/convert/parquet")]
        return DatasetInfo(id=repo, sha=revision or "main", siblings=[{"rfilename": n} for n in [*names, "README.md"]])

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


def test_parquet_fetches_a_data_set_of_the_hub_by_name(hub: Hub) -> None:
    write_parquet(hub.root / "plain_text" / "train-00000-of-00001.parquet", [(png(1), 0), (png(2), 1)], ["a", "b"])
    write_parquet(hub.root / "plain_text" / "test-00000-of-00001.parquet", [(png(3), 1)], ["a", "b"])
    source = opened("parquet", "owner/name")
    assert {name: values(part) for name, part in source.parts.items()} == {"train": [1, 2], "test": [3]}
    assert len(source.fingerprint()) == 64
    assert len(hub.fetched) == 2


def test_parquet_takes_the_configuration_asked_for(hub: Hub) -> None:
    for value, config in enumerate(("small", "large")):
        write_parquet(hub.root / config / "train-00000-of-00001.parquet", [(png(value), 0)], ["a", "b"])
    assert values(opened("parquet", "owner/name:large").parts["train"]) == [1]
    assert hub.fetched == ["large/train-00000-of-00001.parquet"]
    with pytest.raises(ValueError, match=r"holds 2 data sets \(in large, small\)"):
        opened("parquet", "owner/name").parts  # noqa: B018
    with pytest.raises(ValueError, match="holds no such data sets"):
        opened("parquet", "owner/name:huge").parts  # noqa: B018


def test_parquet_takes_one_part_of_a_data_set_of_the_hub(hub: Hub) -> None:
    for part, value in (("train", 1), ("validation", 2), ("test", 3)):
        write_parquet(hub.root / "data" / f"{part}-00000-of-00001.parquet", [(png(value), 0)], ["a", "b"])
    source = open_source(Data(source="parquet", path="owner/name:validation"))
    assert list(source.parts) == ["validation"]
    assert hub.fetched == ["data/validation-00000-of-00001.parquet"], "the training part may be 150 GB"


def test_parquet_falls_back_on_the_hubs_own_conversion(hub: Hub) -> None:
    write_parquet(hub.root / "default" / "train" / "0000.parquet", [(png(5), 0)], ["a", "b"])
    hub.converted = ("default/train/0000.parquet",)
    assert values(opened("parquet", "owner/name").parts["train"]) == [5]


def test_parquet_hub_out_of_reach_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_parquet_reads_the_shared_data_as_it_is(name: str, rows: dict[str, int], classes: int, first: str) -> None:
    source = opened("parquet", SHARED / name)
    assert {part: found.rows for part, found in source.parts.items()} == rows
    assert len(source.classes) == classes
    assert source.classes[0] == first
    for part in source.parts.values():
        assert all(isinstance(image, bytes) for image, _ in part.read([0, part.rows - 1]))


# ------------------------------------------------------------------------------------------------------------ folder


def test_folder_has_a_class_a_sub_folder_sorted(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"dog/2.PNG": 2, "dog/1.png": 1, "cat/deep/er.png": 3, "cat/.hidden.png": 9})
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    source = opened("folder", root)
    assert source.images.lost_classes == ("empty (an empty folder)",)
    assert source.classes == ("cat", "dog")
    assert list(source.parts) == ["train"]
    part = source.parts["train"]
    assert [(label, name) for _, label, name in part] == [(0, "cat/deep/er.png"), (1, "dog/1.png"), (1, "dog/2.PNG")]
    assert values(part) == [3, 1, 2]
    assert [left.description for left in source.images.unused] == [
        "1 file that is no image, by content: cat/notes.txt",
        "1 image hidden by a name that begins with a dot: cat/.hidden.png",
    ]
    assert source.images.layout == "the classes are the 2 folders in data.path; there are no split folders"


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "Validation", "Test")],
)
def test_folder_reads_split_folders(tmp_path: Path, train: str, validation: str, test: str) -> None:
    images = {f"{train}/a/1.png": 1, f"{train}/b/1.png": 2, f"{validation}/b/1.png": 3, f"{test}/a/1.png": 4}
    root = write_images(tmp_path, images)
    source = opened("folder", root)
    assert source.classes == ("a", "b")
    found = {name: (list(part.labels), values(part)) for name, part in source.parts.items()}
    assert found == {"train": ([0, 1], [1, 2]), "validation": ([1], [3]), "test": ([0], [4])}


def test_folder_takes_train_for_a_class_where_it_holds_images(tmp_path: Path) -> None:
    source = opened("folder", write_images(tmp_path, {"train/1.png": 1, "tram/1.png": 2}))
    assert source.classes == ("train", "tram")


def test_folder_leaves_out_a_test_folder_without_classes(tmp_path: Path) -> None:
    source = opened("folder", write_images(tmp_path, {"train/a/1.png": 1, "train/b/1.png": 2, "test/1.png": 3}))
    assert list(source.parts) == ["train"]
    (left,) = source.images.unused
    assert left.description == "1 image in test without class folders, and so without labels"
    assert not left.lost_images, "without labels it is of no use"


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
def test_folder_says_what_is_wrong(tmp_path: Path, images: dict[str, int], path: str, message: str) -> None:
    write_images(tmp_path, images)
    with pytest.raises(ValueError, match=message):
        opened("folder", tmp_path / path).parts  # noqa: B018


# ------------------------------------------------------------------------------------------------------------- cifar


def write_cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Batches as torchvision's archive unpacks them, two images each; torchvision is told their checksums."""
    from hashlib import md5

    from torchvision import datasets

    known = getattr(datasets, name)
    folder = root / known.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)

    def write(file: str, content: dict[str, Any]) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()

    at = 0
    for attribute in ("train_list", "test_list"):
        found = []
        for file, _ in getattr(known, attribute):
            labels = {"labels" if name == "CIFAR10" else "fine_labels": [at % 10, (at + 1) % 10]}
            found.append([file, write(file, {"data": images[at : at + 2].reshape(2, -1), **labels})])
            at += 2
        monkeypatch.setattr(known, attribute, found)
    meta = {**known.meta, "md5": write(known.meta["filename"], {known.meta["key"]: [f"class {i}" for i in range(10)]})}
    monkeypatch.setattr(known, "meta", meta)
    return images[:at].transpose(0, 2, 3, 1)


# torch and torchvision are imported
@pytest.mark.slow
@pytest.mark.parametrize(("source", "name", "train"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 2)])
def test_cifar_reads_what_torchvision_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, train: int
) -> None:
    images = write_cifar(tmp_path, name, monkeypatch)
    found = opened(source, tmp_path)
    assert found.classes == tuple(f"class {i}" for i in range(10))
    assert {part: p.rows for part, p in found.parts.items()} == {"train": train, "test": 2}
    assert np.array_equal(np.stack([image for image, _, _ in found.parts["train"]]), images[:train])
    assert np.array_equal(np.stack([image for image, _, _ in found.parts["test"]]), images[train:])
    assert list(found.parts["test"].labels) == [train % 10, (train + 1) % 10]
    inside = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert open_source(Data(path=str(inside))).classes == found.classes, (
        "the folder that torchvision unpacks, by itself"
    )
    before = found.fingerprint()
    next(tmp_path.rglob("test*")).write_bytes(b"other")
    assert opened(source, tmp_path).fingerprint() != before


@pytest.mark.slow
def test_cifar_download_that_fails_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    # nothing listens there
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    for ask in (lambda source: source.parts, lambda source: source.fingerprint()):
        with pytest.raises(ValueError, match=r"CIFAR10 is not complete in .* and could not be downloaded") as error:
            ask(opened("cifar10", tmp_path))
        assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------- tiny imagenet


@pytest.mark.parametrize("form", ["zip", "folder of the zip", "unpacked", "folder of the unpacked"])
def test_tiny_imagenet_reads_the_zip_and_the_folder_alike(tmp_path: Path, form: str) -> None:
    base = write_tiny(tmp_path / "made")
    folder = tmp_path / "kept"
    folder.mkdir()
    archive = zipped(base, folder / "tiny-imagenet-200.zip")
    path = {"zip": archive, "folder of the zip": folder, "unpacked": base, "folder of the unpacked": base.parent}[form]
    source = opened("tiny_imagenet", path)
    assert source.classes == ("n01", "n02")
    train, validation = source.parts["train"], source.parts["validation"]
    assert (list(train.labels), values(train)) == ([0, 0, 0, 1, 1, 1], [10, 11, 12, 0, 1, 2])
    assert (list(validation.labels), values(validation)) == ([1, 0, None], [50, 51, 52])
    assert [(left.description, left.lost_images) for left in source.images.unused] == [
        ("1 training image of classes that wnids.txt does not list", 1),
        ("1 test image without labels", 0),
    ]
    assert len(source.fingerprint()) == 64


def _flipped(folder: Path) -> Path:
    """A zip whose images have other bytes than its checksums say."""
    archive = zipped(write_tiny(folder / "made"), folder / "damaged.zip")
    archive.write_bytes(archive.read_bytes().replace(b"IHDR", b"XXXX"))
    return archive


def _no_zip(folder: Path) -> Path:
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
        (_no_zip, "text.zip is a text"),
        (_no_images, "has no images train/<wnid>/images"),
        (_flipped, "damaged.zip is damaged at tiny-imagenet-200/train/n01/images/n01_0.JPEG"),
    ],
)
def test_tiny_imagenet_says_what_is_wrong(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(opened("tiny_imagenet", make(tmp_path)).parts["train"])


# ------------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_changes_with_content_and_names_alone(tmp_path: Path) -> None:
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


def test_fingerprint_of_much_data_is_of_sizes_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.datasets.HASHED_BYTES", 100)
    path = write_parquet(tmp_path / "x.parquet", [(png(1), 0)], ["a", "b"])
    before = opened("parquet", path).fingerprint()
    os.utime(path, (1, 1))
    assert opened("parquet", path).fingerprint() != before


# ------------------------------------------------------------------------------------------------------------ decode


def test_decode_turns_upright_by_exif() -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 6) * 20)
    exif = Image.Exif()
    # to be turned by 90 degrees clockwise
    exif[0x0112] = 6
    upright = decode(encoded(picture, "PNG", exif=exif), None)
    assert np.array_equal(upright, np.rot90(np.asarray(picture), -1))


@pytest.mark.parametrize(
    ("picture", "form", "shape", "first"),
    [
        (Image.new("L", (3, 2), 9), "PNG", (2, 3), 9),
        (Image.new("1", (3, 2), 1), "PNG", (2, 3), 255),
        (Image.fromarray(np.full((2, 3), 0x1234, np.uint16)), "PNG", (2, 3), 0x12),
        (Image.fromarray(np.full((2, 3), 0xFFFF, np.uint16)), "TIFF", (2, 3), 255),
        (Image.new("LA", (3, 2), (0, 0)), "PNG", (2, 3), 255),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 0)), "PNG", (2, 3, 3), 255),
        (Image.new("RGBA", (3, 2), (10, 0, 0, 255)), "PNG", (2, 3, 3), 10),
        # nearest of the web palette
        (Image.new("RGB", (3, 2), (200, 0, 0)).convert("P"), "GIF", (2, 3, 3), 204),
        (Image.new("CMYK", (3, 2), (0, 0, 0, 0)), "JPEG", (2, 3, 3), 255),
        (Image.new("RGB", (3, 2), (7, 8, 9)), "BMP", (2, 3, 3), 7),
        (Image.new("RGB", (3, 2), (7, 8, 9)), "PPM", (2, 3, 3), 7),
    ],
)
def test_decode_makes_every_mode_grey_or_rgb(
    picture: Image.Image, form: str, shape: tuple[int, ...], first: int
) -> None:
    pixels = decode(encoded(picture, form), None)
    assert pixels.dtype == np.uint8
    assert pixels.shape == shape
    assert pixels.flat[0] == first


def test_decode_resizes_the_shorter_side_and_crops_the_centre() -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    # cropped, not interpolated
    assert np.array_equal(decode(wide, 4), np.full((4, 4), 200))
    smooth = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None], 20, axis=0)
    small = decode(smooth, 10)
    assert small.shape == (10, 10)
    assert np.abs(small[5] - np.linspace(69, 186, 10)).max() < 4
    assert decode(np.zeros((3, 5, 3), np.uint8), 9).shape == (9, 9, 3)
    noise = np.random.default_rng(0).integers(0, 256, (8, 16), np.uint8)
    # already of the size to resize to: cropped alone
    assert np.array_equal(decode(noise, 4, 8), noise[2:6, 6:10])
    assert np.array_equal(decode(noise, 4, 6), decode(noise, 6)[1:5, 1:5])


@pytest.mark.parametrize(
    ("image", "reason", "detail"),
    [
        (None, "null image", ""),
        (b"", "empty image", ""),
        (b"hello", "undecodable image", "no known format"),
        (png(3, (40, 40))[:-30], "undecodable image", "truncated|broken|Truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-200], "undecodable image", "truncated"),
        # would run Ghostscript
        (encoded(Image.new("L", (2, 2)), "EPS"), "undecodable image", "no known format"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "undecodable image", "no known range"),
        (Path("nowhere.png"), "undecodable image", "No such file"),
        (
            as_if_huge(png()),
            "undecodable image",
            "60000 x 60000 pixels, 3600 million; at most 179 million",
        ),
    ],
)
def test_decode_refuses_what_is_no_whole_image(image: Any, reason: str, detail: str) -> None:
    with pytest.raises(Bad) as bad:
        decode(image, None)
    assert bad.value.args[0] == reason
    assert re.search(detail, bad.value.args[1])


def test_decode_refuses_to_blow_up_a_thread_of_pixels() -> None:
    with pytest.raises(Bad, match="too elongated"):
        decode(np.zeros((1, 10_000), np.uint8), 224)
