"""Find out from what lies at data.path which source reads it. If two sources could, the user has to choose."""

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
"""At most this many files of a folder are looked at, those of upper folders first."""
CIFAR = {"cifar10": {"data_batch_1", "test_batch", "batches.meta"}, "cifar100": {"train", "test", "meta"}}
"""For each source, files by which the folder that torchvision unpacks is recognised."""
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
"""For each source, the name of the archive that torchvision downloads."""
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
ACCEPTED = (
    "a folder of images (or a zip of it) with a folder per class, a table of labels beside the images, Parquet as "
    "the Hugging Face hub has it, or a data set's name there (owner/name)"
)


def resolve(data: Data) -> Data:
    """Return the settings with the name of the source instead of "auto". Without a path, the source is digits.

    Raises
    ------
    ValueError
        If nothing that a source reads lies at data.path, the place cannot hold data, or two sources could read it.
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
        # The user gave a setting that this source does not read.
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _source(path: str) -> str:
    """Return the name of the source that reads what lies at a path."""
    root = Path(path).expanduser()
    if root.is_dir():
        return _source_of_folder(root)
    if root.is_file():
        return _source_of_file(root)
    if HUB_NAME.fullmatch(path):
        return "parquet"
    raise ValueError(f"data.path: {shown(path)} is not there; give {ACCEPTED}")


def _source_of_file(path: Path) -> str:
    """Return the name of the source that reads a file: Parquet, a zip, or a table of labels beside images."""
    head = _filekinds.head_of(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    if zipfile.is_zipfile(path) and not _filekinds.broken_zip(path):
        with zipfile.ZipFile(path) as archive:
            return _source_by_names(archive.namelist(), path)
    if path.name.lower().endswith(TABLES):
        return "folder"
    kind = _filekinds.kind(path) or "of none of the kinds that are read"
    if path.name.lower().endswith(PARQUET):
        kind += ", although its name is that of a Parquet file"
    raise ValueError(f"data.path: {shown(str(path))} is {kind}; accepted is {ACCEPTED}")


def _source_of_folder(root: Path) -> str:
    """Return the name of the source that reads a folder."""
    for source, files in CIFAR.items():
        if (root / ARCHIVES[source]).is_file():
            return source
        for folder in (root, *(entry for entry in root.iterdir() if entry.name.startswith("cifar-"))):
            if all((folder / name).is_file() for name in files):
                return source
    return _source_by_names(list(islice(_file_names(root), MOST)), root)


def _source_by_names(names: list[str], path: Path) -> str:
    """Return the name of the source that reads the folder or zip at `path`, in which files of these names are."""
    lower = [name.lower() for name in names if not any(is_junk(step) for step in name.split("/"))]
    if _is_tiny_imagenet(lower, path):
        return "tiny_imagenet"
    parquet = _first_with_suffix(lower, PARQUET)
    image = _first_with_suffix(lower, SUFFIXES)
    if parquet and image:
        raise ValueError(
            f"data.path: {shown(str(path))} holds Parquet ({shown(parquet)}) and images ({shown(image)}); say "
            "which with data.source=parquet or data.source=folder"
        )
    if parquet and not path.is_dir():
        raise ValueError(f"data.path: {shown(str(path))} is a zip of Parquet files: unpack it, and give the folder")
    if parquet:
        return "parquet"
    packed = _first_with_suffix(lower, PACKED)
    if packed and not image:
        raise ValueError(
            f"data.path: {shown(str(path))} holds no images, but {shown(packed)}; give that file if it is a "
            "zip, and else unpack it"
        )
    if _first_with_suffix(lower, (".arrow",)):
        raise ValueError(
            f"data.path: {shown(str(path))} holds Arrow files, as `datasets` saves them to disk; write them as "
            "Parquet with its to_parquet"
        )
    # If anything is missing, this source says what.
    return "folder"


def _first_with_suffix(names: list[str], suffixes: tuple[str, ...]) -> str | None:
    """Return the first of the names that ends in one of the suffixes, or None."""
    return next((name for name in names if name.endswith(suffixes)), None)


def _is_tiny_imagenet(names: list[str], path: Path) -> bool:
    """Return whether files of these lower-case names are Tiny ImageNet, unpacked or as the only zip in a folder."""
    has_list = any(name.rpartition("/")[2] == "wnids.txt" for name in names)
    if has_list and any("val_annotations" in name for name in names):
        return True
    zips = [name for name in names if "/" not in name and name.endswith(".zip")]
    return path.is_dir() and zips == ["tiny-imagenet-200.zip"]


def _file_names(root: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, upper folders first. Links to folders are not followed."""
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
