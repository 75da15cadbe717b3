"""data.path without a source: what lies there is found by content; what nothing reads is refused, and nothing is
ignored."""

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

TWO = {"cat": 3, "dog": 3}


def _folder(tmp: Path) -> Path:
    return tree(tmp / "set", TWO)


def _zip(tmp: Path) -> Path:
    return zipped(_folder(tmp), tmp / "photos.data")


def _parquet(tmp: Path) -> Path:
    pl.DataFrame({"image": [picture(i) for i in range(4)], "label": [0, 1, 0, 1]}).write_parquet(tmp / "no-suffix")
    return tmp / "no-suffix"


def _parquet_folder(tmp: Path) -> Path:
    (tmp / "set").mkdir()
    return _parquet(tmp).rename(tmp / "set" / "train.parquet").parent


def _table(tmp: Path) -> Path:
    (_folder(tmp) / "x.csv").write_text("file,label\ncat/000.png,a\n")
    return tmp / "set" / "x.csv"


def _tiny(tmp: Path) -> Path:
    return write_tiny_imagenet(tmp)


def _tiny_zip(tmp: Path) -> Path:
    (tmp / "kept").mkdir()
    return zipped(write_tiny_imagenet(tmp), tmp / "kept" / "tiny-imagenet-200.zip")


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (_folder, "folder"),
        (_zip, "folder"),
        (_table, "folder"),
        (_parquet, "parquet"),
        (_parquet_folder, "parquet"),
        (_tiny, "tiny_imagenet"),
        (_tiny_zip, "tiny_imagenet"),
        (lambda tmp: _tiny_zip(tmp).parent, "tiny_imagenet"),
    ],
)
def test_a_source_is_found_by_what_lies_at_the_path(tmp_path: Path, make: Any, source: str) -> None:
    data = Data(path=str(make(tmp_path)))
    assert resolve(data) == data.model_copy(update={"source": source})
    assert f"tasks.datasets.{source}" in {
        key.removeprefix("code of ") for key in prepare_task.about.parts({"settings": data})
    }


@pytest.mark.parametrize("source", list(CIFAR))
def test_cifars_batches_are_found_in_their_folder_around_it_and_packed(tmp_path: Path, source: str) -> None:
    inside = tmp_path / "all" / "cifar-python"
    inside.mkdir(parents=True)
    for name in CIFAR[source]:
        (inside / name).touch()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / ARCHIVES[source]).touch()
    for path in (inside, inside.parent, tmp_path / "packed"):
        assert resolve(Data(path=str(path))).source == source


def test_without_a_path_it_is_the_digits_and_a_name_of_the_hub_is_parquet() -> None:
    assert resolve(Data()).source == "digits"
    assert resolve(Data(path="owner/name:validation")).source == "parquet"


def _both(tmp: Path) -> Path:
    return _parquet_folder(tree(tmp, {"cat": 1})).parent


def _tar(tmp: Path) -> Path:
    with tarfile.open(tmp / "set.tar.gz", "w:gz") as archive:
        archive.add(_folder(tmp), "set")
    return tmp / "set.tar.gz"


def _image(tmp: Path) -> Path:
    (tmp / "one").write_bytes(picture(1))
    return tmp / "one"


def _arrow(tmp: Path) -> Path:
    (tmp / "data-00000-of-00001.arrow").write_bytes(b"")
    return tmp


def _packed(tmp: Path) -> Path:
    (tmp / "x").mkdir()
    _zip(tmp).rename(tmp / "x" / "photos.zip")
    return tmp / "x"


def _zip_of_parquet(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "x.zip", "w") as archive:
        archive.writestr("x.parquet", b"PAR1")
    return tmp / "x.zip"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_both, "holds Parquet .set/train.parquet. and images .cat/000.png.; say which with data.source=parquet or"),
        (_tar, "is compressed by gzip, as tar archives often are: unpack it"),
        (_image, r"is a single image .PNG.; accepted is"),
        (_arrow, "holds Arrow files"),
        (_packed, "holds no images, but photos.zip; give that file"),
        (_zip_of_parquet, "is a zip of Parquet files: unpack it"),
        (lambda tmp: tmp / "nothing" / "at" / "all", "is not there; give a folder of images"),
        (lambda tmp: tmp, "has no sub-folder with images in it"),
    ],
)
def test_what_nothing_or_two_sources_read_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        open_source(Data(path=str(make(tmp_path)))).parts  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.source=digits", "data.path=photos"], "'digits' does not read data.path .given 'photos'.; leave"),
        (["data.source=cifar10", "data.label=x"], "source 'cifar10' does not read data.label"),
        (["data.source=parquet", "data.path=x", "data.layout=splits"], "source 'parquet' does not read data.layout"),
        (["data.label=x"], "data.label = 'x' has no effect without data.path"),
        (["data.layout=split"], "'auto', 'classes' or 'splits'"),
        (["data.path=/x/caf\udce9"], r"data.path=/x/caf\\xe9: these bytes are no UTF-8; rename the file"),
    ],
)
def test_a_setting_that_the_source_does_not_read_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(Mistake, match=said) as error:
        load("quickstart", settings)
    assert "\n" not in str(error.value)


def test_a_found_source_refuses_settings_that_it_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^source 'parquet' does not read data.layout") as error:
        open_source(Data(path=str(_parquet(tmp_path)), layout="splits"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_torchvision_set_is_not_downloaded_into_a_folder_of_other_images(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=r"does not hold CIFAR.*, but cat; give a folder to download it to, or leave"):
        open_source(Data(source=source, path=str(_folder(tmp_path))))
    with pytest.raises(ValueError, match="is a file; CIFAR"):
        open_source(Data(source=source, path=str(_parquet(tmp_path))))


# ------------------------------------------------------------------------------------------------------- what pixels
# hide


def folder_of(root: Path, pixels: list[np.ndarray]) -> Path:
    for i, one in enumerate(pixels):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(root / "ab"[i % 2] / f"{i:02}.png")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path / "out", "prepare")


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_sixteen_bits_of_which_eight_would_keep_nothing_are_refused(tmp_path: Path, work: Work, bits: int) -> None:
    rng = np.random.default_rng(0)
    root = folder_of(tmp_path / "set", [rng.integers(0, 1 << bits, (6, 6)).astype(np.uint16) for _ in range(16)])
    said = (
        r"16 images with 16 bits per channel have values up to \d+ of 65535, of which 8 bits would keep \d+ "
        r"levels?; scale"
    )
    with pytest.raises(ValueError, match=said):
        prepare(work, Data(path=str(root)))


def test_sixteen_bits_that_are_used_keep_their_upper_eight(tmp_path: Path, work: Work, caplog: Any) -> None:
    caplog.set_level("INFO", "burnish")
    rng = np.random.default_rng(0)
    deep = [rng.integers(0, 1 << 16, (6, 6)).astype(np.uint16) for _ in range(16)]
    prepared = prepare(work, Data(path=str(folder_of(tmp_path / "set", deep))))
    images, *_ = load_arrays(work.store, prepared)
    expected = np.stack([deep[i] >> 8 for i in (*range(0, 16, 2), *range(1, 16, 2))])[..., None]
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected.astype(np.uint8)))
    assert "16 images with 16 bits per channel: the upper 8 bits are kept, 256 levels" in caplog.text


def test_colours_of_sixteen_bits_are_looked_at_too(tmp_path: Path, work: Work) -> None:
    import struct
    import zlib

    def png16(values: np.ndarray) -> bytes:
        """A PNG of 16 bits per colour, which Pillow can read and not write."""

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


def test_several_frames_and_turned_images_are_said(tmp_path: Path, work: Work, caplog: Any) -> None:
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


# ------------------------------------------------------------------------------------------------------------ the
# command


def test_the_command_refuses_in_one_line_before_anything_is_started(tmp_path: Path) -> None:
    burnish = Burnish(tmp_path / "artifacts", None)
    root = tree(tmp_path / "set", {"cat": 3, "dog": 3, ".": 3})
    for settings, said in (
        (("data.source=digits", f"data.path={root}"), "does not read data.path"),
        ((f"data.path={root}",), "3 of 9 images: 3 images in data.path beside the class folders"),
    ):
        told = burnish.run(*settings, code=2).stderr
        assert said in told and told.count("\n") == 1
    assert not burnish.out.exists()
    told = [sys.executable, "-m", "flows", "run", "quickstart", "--set", os.fsdecode(b"data.path=caf\xe9")]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, check=False)
    assert (
        done.returncode == 2 and done.stderr.count(b"\n") == 1 and rb"caf\xe9: these bytes are no UTF-8" in done.stderr
    )
