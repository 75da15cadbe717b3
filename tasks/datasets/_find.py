"""Which source reads what lies at data.path: told by content, and refused where two do."""

from __future__ import annotations

import os
import zipfile
from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets import _filekinds
from tasks.datasets._hidden import SUFFIXES
from tasks.datasets._place import check_place
from tasks.datasets._words import HUB_NAME, PARQUET, TABLES, is_junk, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.records import Data

MOST = 20_000
"""Files of a folder that are looked at, at most, those of upper folders first."""
CIFAR = {"cifar10": {"data_batch_1", "test_batch", "batches.meta"}, "cifar100": {"train", "test", "meta"}}
"""Source -> files of which its folder, as torchvision unpacks it, consists."""
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
ACCEPTED = (
    "a folder of images (or a zip of it) with a folder per class, a table of labels beside the images, Parquet as "
    "the Hugging Face hub has it, or a data set's name there (owner/name)"
)


def resolve(data: Data) -> Data:
    """The same settings with the source named: as the user says, or as found at data.path; digits without a path.

    Raises
    ------
    ValueError
        If nothing that a source reads lies at data.path, what is there cannot hold data, or two sources read it.
    """
    from pydantic import ValidationError

    if data.path:
        check_place(Path(data.path).expanduser())
    if data.source != "auto":
        return data
    source = _source(data.path) if data.path else "digits"
    try:
        return type(data).model_validate(data.model_dump() | {"source": source})
    except ValidationError as error:
        # a setting that this source does not read
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _source(path: str) -> str:
    root = Path(path).expanduser()
    if root.is_dir():
        return _of_folder(root)
    if root.is_file():
        return _of_file(root)
    if HUB_NAME.fullmatch(path):
        return "parquet"
    raise ValueError(f"data.path: {shown(path)} is not there; give {ACCEPTED}")


def _of_file(path: Path) -> str:
    head = _filekinds.head_of(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    if zipfile.is_zipfile(path) and not _filekinds.broken_zip(path):
        with zipfile.ZipFile(path) as archive:
            return _of_names(archive.namelist(), path)
    if path.name.lower().endswith(TABLES):
        return "folder"
    what = _filekinds.kind(path) or "of none of the kinds that are read"
    if path.name.lower().endswith(PARQUET):
        what += ", although its name is that of a Parquet file"
    raise ValueError(f"data.path: {shown(str(path))} is {what}; accepted is {ACCEPTED}")


def _of_folder(root: Path) -> str:
    for source, files in CIFAR.items():
        if (root / ARCHIVES[source]).is_file():
            return source
        for folder in (root, *(entry for entry in root.iterdir() if entry.name.startswith("cifar-"))):
            if all((folder / name).is_file() for name in files):
                return source
    return _of_names(list(islice(_names(root), MOST)), root)


def _of_names(names: list[str], path: Path) -> str:
    """The source that reads files of these names."""
    lower = [name.lower() for name in names if not any(is_junk(step) for step in name.split("/"))]
    parquet = next((name for name in lower if name.endswith(PARQUET)), None)
    if any(name.rpartition("/")[2] == "wnids.txt" for name in lower) and any("val_annotations" in n for n in lower):
        return "tiny_imagenet"
    if path.is_dir() and [name for name in lower if "/" not in name and name.endswith(".zip")] == [
        "tiny-imagenet-200.zip"
    ]:
        return "tiny_imagenet"
    images = next((name for name in lower if name.endswith(SUFFIXES)), None)
    if parquet and images:
        raise ValueError(
            f"data.path: {shown(str(path))} holds Parquet ({shown(parquet)}) and images ({shown(images)}); say "
            "which with data.source=parquet or data.source=folder"
        )
    if parquet and not path.is_dir():
        raise ValueError(f"data.path: {shown(str(path))} is a zip of Parquet files: unpack it, and give the folder")
    if parquet:
        return "parquet"
    packed = next((name for name in lower if name.endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))), None)
    if packed and not images:
        raise ValueError(
            f"data.path: {shown(str(path))} holds no images, but {shown(packed)}; give that file if it is a "
            "zip, and else unpack it"
        )
    if any(name.endswith(".arrow") for name in lower):
        raise ValueError(
            f"data.path: {shown(str(path))} holds Arrow files, as `datasets` saves them to disk; write them as "
            "Parquet with its to_parquet"
        )
    # which says what is missing, if it is
    return "folder"


def _names(root: Path) -> Iterator[str]:
    """Names of the files below a folder, upper folders first; links to folders are not followed."""
    waiting = deque([""])
    while waiting:
        folder = waiting.popleft()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name
