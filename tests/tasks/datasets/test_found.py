"""`source = auto` finds the source by the content at data.path; no setting that the source does not read is ignored."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flows.settings import Mistake, load
from tasks.caching.work import Work
from tasks.datasets import open_source
from tasks.datasets._arrays import load_arrays
from tasks.datasets._find import ARCHIVES, CIFAR, resolve
from tasks.prepare import prepare, prepare_task
from tasks.records import Data
from tests.support.command import Burnish
from tests.support.files import write_tiny_imagenet, zipped
from tests.support.images import picture, tree
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TWO_CLASSES = {"cat": 3, "dog": 3}


def _class_folders(tmp: Path) -> Path:
    return tree(tmp / "set", TWO_CLASSES)


def _zip_of_class_folders(tmp: Path) -> Path:
    return zipped(_class_folders(tmp), tmp / "photos.data")


def _parquet_file(tmp: Path) -> Path:
    pl.DataFrame({"image": [picture(i) for i in range(4)], "label": [0, 1, 0, 1]}).write_parquet(tmp / "no-suffix")
    return tmp / "no-suffix"


def _parquet_folder(tmp: Path) -> Path:
    (tmp / "set").mkdir()
    return _parquet_file(tmp).rename(tmp / "set" / "train.parquet").parent


def _table_of_labels(tmp: Path) -> Path:
    (_class_folders(tmp) / "x.csv").write_text("file,label\ncat/000.png,a\n")
    return tmp / "set" / "x.csv"


def _tiny_imagenet_folder(tmp: Path) -> Path:
    return write_tiny_imagenet(tmp)


def _tiny_imagenet_zip(tmp: Path) -> Path:
    (tmp / "kept").mkdir()
    return zipped(write_tiny_imagenet(tmp), tmp / "kept" / "tiny-imagenet-200.zip")


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (_class_folders, "folder"),
        (_zip_of_class_folders, "folder"),
        (_table_of_labels, "folder"),
        (_parquet_file, "parquet"),
        (_parquet_folder, "parquet"),
        (_tiny_imagenet_folder, "tiny_imagenet"),
        (_tiny_imagenet_zip, "tiny_imagenet"),
        (lambda tmp: _tiny_imagenet_zip(tmp).parent, "tiny_imagenet"),
    ],
)
def test_the_source_is_recognised_by_the_content_of_the_path(tmp_path: Path, make: Any, source: str) -> None:
    data = Data(path=str(make(tmp_path)))
    assert resolve(data) == data.model_copy(update={"source": source})
    assert f"tasks.datasets.{source}" in {
        key.removeprefix("code of ") for key in prepare_task.about.parts({"settings": data})
    }


@pytest.mark.parametrize("source", list(CIFAR))
def test_cifar_is_found_by_its_batches_their_parent_folder_or_its_archive(tmp_path: Path, source: str) -> None:
    inside = tmp_path / "all" / "cifar-python"
    inside.mkdir(parents=True)
    for name in CIFAR[source]:
        (inside / name).touch()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / ARCHIVES[source]).touch()
    for path in (inside, inside.parent, tmp_path / "packed"):
        assert resolve(Data(path=str(path))).source == source


def test_no_path_means_the_digits_and_a_name_on_the_hub_means_parquet() -> None:
    assert resolve(Data()).source == "digits"
    assert resolve(Data(path="owner/name:validation")).source == "parquet"


def _parquet_and_images(tmp: Path) -> Path:
    return _parquet_folder(tree(tmp, {"cat": 1})).parent


def _tar_archive(tmp: Path) -> Path:
    with tarfile.open(tmp / "set.tar.gz", "w:gz") as archive:
        archive.add(_class_folders(tmp), "set")
    return tmp / "set.tar.gz"


def _single_image(tmp: Path) -> Path:
    (tmp / "one").write_bytes(picture(1))
    return tmp / "one"


def _folder_of_arrow(tmp: Path) -> Path:
    (tmp / "data-00000-of-00001.arrow").write_bytes(b"")
    return tmp


def _folder_of_a_zip(tmp: Path) -> Path:
    (tmp / "x").mkdir()
    _zip_of_class_folders(tmp).rename(tmp / "x" / "photos.zip")
    return tmp / "x"


def _zip_of_parquet(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "x.zip", "w") as archive:
        archive.writestr("x.parquet", b"PAR1")
    return tmp / "x.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _parquet_and_images,
            "holds Parquet .set/train.parquet. and images .cat/000.png.; say which with data.source=parquet or",
        ),
        (_tar_archive, "is compressed by gzip, as tar archives often are: unpack it"),
        (_single_image, r"is a single image .PNG.; accepted is"),
        (_folder_of_arrow, "holds Arrow files"),
        (_folder_of_a_zip, "holds no images, but photos.zip; give that file"),
        (_zip_of_parquet, "is a zip of Parquet files: unpack it"),
        (lambda tmp: tmp / "nothing" / "at" / "all", "is not there; give a folder of images"),
        (lambda tmp: tmp, "has no sub-folder with images in it"),
    ],
)
def test_a_path_that_no_source_or_two_sources_could_read_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        open_source(Data(path=str(make(tmp_path)))).parts  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.source=digits", "data.path=photos"], "'digits' does not read data.path .given 'photos'.; leave"),
        (["data.source=cifar10", "data.label=x"], "source 'cifar10' does not read data.label"),
        (["data.source=parquet", "data.path=x", "data.layout=splits"], "source 'parquet' does not read data.layout"),
        (["data.label=x"], "data.label = 'x' has no effect without data.path"),
        (["data.layout=split"], "'auto', 'classes' or 'splits'"),
        (["data.path=/x/caf\udce9"], r"data.path=/x/caf\\xe9: these bytes are no UTF-8; rename the file"),
    ],
)
def test_a_setting_that_the_source_does_not_read_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(Mistake, match=message) as error:
        load("quickstart", settings)
    assert "\n" not in str(error.value)


def test_a_source_that_was_found_by_content_refuses_settings_that_it_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^source 'parquet' does not read data.layout") as error:
        open_source(Data(path=str(_parquet_file(tmp_path)), layout="splits"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_torchvision_set_is_not_downloaded_into_a_folder_of_other_images(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=r"does not hold CIFAR.*, but cat; give a folder to download it to, or leave"):
        open_source(Data(source=source, path=str(_class_folders(tmp_path))))
    with pytest.raises(ValueError, match="is a file; CIFAR"):
        open_source(Data(source=source, path=str(_parquet_file(tmp_path))))


# ------------------------------------------------------------------------------ 16 bits, several frames, orientation


def folder_of(root: Path, pixels: list[np.ndarray]) -> Path:
    """Save each array as an image, in turn in class "a" and in class "b"."""
    for i, image in enumerate(pixels):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "ab"[i % 2] / f"{i:02}.png")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_16_bit_images_that_8_bits_would_reduce_to_a_few_levels_are_refused(
    tmp_path: Path, work: Work, bits: int
) -> None:
    rng = np.random.default_rng(0)
    root = folder_of(tmp_path / "set", [rng.integers(0, 1 << bits, (6, 6)).astype(np.uint16) for _ in range(16)])
    message = (
        r"16 images with 16 bits per channel have values up to \d+ of 65535, of which 8 bits would keep \d+ "
        r"levels?; scale"
    )
    with pytest.raises(ValueError, match=message):
        prepare(work, Data(path=str(root)))


def test_16_bit_images_that_use_their_whole_range_keep_the_upper_8_bits(
    tmp_path: Path, work: Work, caplog: Any
) -> None:
    caplog.set_level("INFO", "burnish")
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 1 << 16, (6, 6)).astype(np.uint16) for _ in range(16)]
    prepared = prepare(work, Data(path=str(folder_of(tmp_path / "set", pixels))))
    images, *_ = load_arrays(work.store, prepared)
    expected = np.stack([pixels[i] >> 8 for i in (*range(0, 16, 2), *range(1, 16, 2))])[..., None]
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected.astype(np.uint8)))
    assert "16 images with 16 bits per channel: the upper 8 bits are kept, 256 levels" in caplog.text


def test_colour_images_of_16_bits_are_checked_for_unused_bits_too(tmp_path: Path, work: Work) -> None:
    import struct
    import zlib

    def png16(values: np.ndarray) -> bytes:
        """Encode a PNG with 16 bits per colour, which Pillow reads but does not write."""

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        height, width, _ = values.shape
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
        )

    rng = np.random.default_rng(0)
    for top, name in ((1 << 10, "dark"), (1 << 16, "whole")):
        root = tree(tmp_path / name, {"a": 8, "b": 8})
        for path in root.rglob("*.png"):
            path.write_bytes(png16(rng.integers(0, top, (6, 6, 3))))
    assert prepare(work, Data(path=str(tmp_path / "whole"))).channels == 3
    with pytest.raises(ValueError, match="16 bits per channel have values up to"):
        prepare(work, Data(path=str(tmp_path / "dark")))


def test_the_log_counts_files_with_several_frames_and_images_turned_upright(
    tmp_path: Path, work: Work, caplog: Any
) -> None:
    caplog.set_level("INFO", "burnish")
    root = tree(tmp_path / "set", {"a": 8, "b": 8})
    frames = [Image.open(io.BytesIO(picture(i))) for i in range(3)]
    frames[0].save(root / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "b" / "still.gif")
    frames[0].save(root / "b" / "pages.tif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    frames[1].save(root / "b" / "turned.jpg", exif=exif)
    prepare(work, Data(path=str(root)))
    assert "2 files of several frames: the first frame of each is used" in caplog.text
    assert "1 image turned upright, as the EXIF orientation says" in caplog.text


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_refuses_wrong_data_settings_in_one_line_before_it_starts_anything(tmp_path: Path) -> None:
    burnish = Burnish(tmp_path / "artifacts", None)
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3, ".": 3})
    for settings, message in (
        (("data.source=digits", f"data.path={root}"), "does not read data.path"),
        ((f"data.path={root}",), "3 of 9 images: 3 images in data.path beside the class folders"),
    ):
        stderr = burnish.run(*settings, code=2).stderr
        assert message in stderr and stderr.count("\n") == 1
    assert not burnish.out.exists()
    command = [sys.executable, "-m", "flows", "run", "quickstart", "--set", os.fsdecode(b"data.path=caf\xe9")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (
        done.returncode == 2 and done.stderr.count(b"\n") == 1 and rb"caf\xe9: these bytes are no UTF-8" in done.stderr
    )
