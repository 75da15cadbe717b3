"""A data, model or weights file of another kind, or cut off, is refused with what it is, whatever its name says."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from tasks.datasets import open_source
from tasks.forms.modelfile import inspect
from tasks.records import Data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(20):
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", bytes(range(200)))
    return buffer.getvalue()


def _tar_gz() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a/b.png"))
    return buffer.getvalue()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"x"] * 100, "label": [1] * 100}), buffer)
    return buffer.getvalue()


def _safetensors() -> bytes:
    return safetensors.numpy.save({"w": np.zeros(100)})


CUT = "is a zip file that is cut off or damaged .its end is missing.: copy or download it again"
# By the name of the file: its content, and the message that is expected.
WRONG_DATA: dict[str, tuple[bytes, str]] = {
    "cut.zip": (_zip()[:900], CUT),
    "directory.zip": (_zip()[:-300] + _zip()[-200:], "is a zip file that is cut off or damaged .Bad magic number"),
    "cut.tar.gz": (_tar_gz()[:40], "is compressed by gzip, as tar archives often are: unpack it"),
    "cut.tar": (gzip.decompress(_tar_gz())[:600], "is a tar archive: unpack it"),
    "photos.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive: unpack it"),
    "empty.zip": (b"", r"is empty \(0 bytes\)"),
    "zeros.zip": (bytes(900), "is nothing but zero bytes at its beginning"),
    "page.parquet": (
        b"<!DOCTYPE html>",
        "is a web page: the download was not of the file itself, although its name is",
    ),
    "lfs.zip": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer: git lfs pull"),
    "weights": (_safetensors(), "is a safetensors file"),
    "utf16": ("eins".encode("utf-16"), "is a text in UTF-16"),
}


@pytest.mark.parametrize("name", WRONG_DATA)
def test_a_data_file_of_another_kind_is_refused_with_its_kind_and_what_is_accepted(tmp_path: Path, name: str) -> None:
    content, message = WRONG_DATA[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        open_source(Data(path=str(tmp_path / name)))
    assert "\n" not in str(raised.value)
    assert "accepted is a folder of images" in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "content", "message"),
    [
        ({"source": "folder"}, _zip()[:900], CUT),
        ({"source": "tiny_imagenet"}, _zip()[:900], CUT),
        (
            {"source": "auto"},
            _parquet()[:400],
            "cannot be read as Parquet: it is cut off or damaged .*: copy or download",
        ),
        ({"source": "parquet"}, _zip(), "cannot be read as Parquet: it is a zip file"),
        ({"source": "folder"}, _parquet(), "is Parquet; a folder is needed, or a zip of one"),
    ],
)
def test_a_source_that_is_named_in_the_settings_refuses_another_kind_of_file_by_its_kind(
    tmp_path: Path, settings: dict[str, Any], content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _ = open_source(Data(path=str(tmp_path / "file"), **settings)).images


# By the name of the file: a function that makes its content, and the message that is expected.
WRONG_MODELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut.safetensors": (lambda: _safetensors()[:30], "is a safetensors file that is cut off or damaged"),
    "other.onnx": (_safetensors, "is a safetensors file of weights without an architecture"),
    "other.safetensors": (
        lambda: bytes(range(200, 256)) * 9,
        "ends in .safetensors, but its content is not safetensors",
    ),
    "damaged.onnx": (lambda: bytes(range(1, 200)) * 9, "ends in .onnx, but its content is not ONNX"),
    "empty.onnx": (lambda: b"", r"empty \(0 bytes\)"),
    "image.onnx": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(20), r"a single image \(PNG\)"),
    "table.pt": (_parquet, "Parquet"),
    "cut.pt": (lambda: _zip()[:900], "a zip file that is cut off or damaged .its end is missing."),
    "text.engine": (lambda: b"hello", "a text"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_a_model_file_of_another_kind_is_refused_with_its_kind_and_what_is_accepted(tmp_path: Path, name: str) -> None:
    make, message = WRONG_MODELS[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=message) as raised:
        inspect(tmp_path / name)
    assert "accepted: ONNX" in str(raised.value) or "copy or download it again" in str(raised.value)
    assert "protobuf" not in str(raised.value).lower()
    assert "ModelProto" not in str(raised.value)


def test_weights_are_recognised_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    import torch

    import models
    from models import _pretrained

    network = models.build("lenet5", num_classes=10, in_channels=1, image_size=8)
    state = network.state_dict()
    torch.save(state, tmp_path / "torch.safetensors")
    (tmp_path / "tensors.pth").write_bytes(safetensors.numpy.save({key: value.numpy() for key, value in state.items()}))
    for name in ("torch.safetensors", "tensors.pth"):
        _pretrained.load_into(network, "lenet5", str(tmp_path / name), 8)
    for content, message in (
        (b"", r"is empty \(0 bytes\); accepted is a file of weights"),
        (b"<html>", "is a web page"),
        ((tmp_path / "torch.safetensors").read_bytes()[:900], "is a zip file that is cut off or damaged"),
        (b"\x08\x0a\x12\x07pytorch" + bytes(99), "is of no known kind; accepted is a file of weights"),
    ):
        for name in ("a.pth", "a.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=message):
                _pretrained.load_into(network, "lenet5", str(tmp_path / name), 8)
