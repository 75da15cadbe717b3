"""Tiny ImageNet-200 as Stanford's CS231n publishes it: the zip, read without unpacking it, or the unpacked folder.

It has 100,000 training and 10,000 validation images of 64 x 64 pixels in 200 classes. Its test images have no labels
and are not used.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._filekinds import kind
from tasks.datasets._source import Images, Part, Source, Unused, fingerprint, location
from tasks.datasets._words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tasks.datasets._decode import Encoded
    from tasks.records import Data

    Tree = tuple[list[str], Callable[[str], bytes]]
    """The names of the files below a folder or in a zip, and a function that returns the content of one of them."""

ARCHIVE = "tiny-imagenet-200.zip"
READS = ("path",)
NEEDS = ("path",)


def open(data: Data) -> Source:
    """Open data.path: the zip, a folder that holds it, or the unpacked folder.

    Classes are the WordNet IDs in wnids.txt, sorted. Rows are sorted by file name.

    Raises
    ------
    ValueError
        When the images are needed: if nothing is there, or it is damaged or laid out differently.
    """
    path = location(data)
    if path.is_dir() and (path / ARCHIVE).is_file():
        path = path / ARCHIVE

    def content() -> str:
        if path.is_dir():
            return fingerprint([path / name for name in _tree(path)[0]], path)
        # This raises an error if the zip is absent or damaged.
        _tree(path)
        return fingerprint([path], path.parent)

    return Source(lambda: _load(path), content)


def _tree(path: Path) -> Tree:
    """Return the names of the files in a folder or a zip, sorted, and a function that reads one of them."""
    if path.is_dir():
        files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        relative_names = (file.relative_to(path).as_posix() for file in files if file.is_file())
        return sorted(relative_names), lambda name: (path / name).read_bytes()
    if not path.is_file():
        raise ValueError(f"data.path: {path} is not there; give {ARCHIVE} or the folder it unpacks to")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"data.path: {path} is {kind(path) or 'no zip file'}") from error

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"data.path: {path} is damaged at {name} ({error})") from error

    return sorted(name for name in archive.namelist() if not name.endswith("/")), read


def _load(path: Path) -> Images:
    """Return the images of the data set in a folder or a zip."""
    names, read = _tree(path)
    lists = [name for name in names if name.rpartition("/")[2] == "wnids.txt"]
    if not lists:
        raise ValueError(f"data.path: {path} has no wnids.txt; give {ARCHIVE} or the folder it unpacks to")
    root = min(lists, key=len).removesuffix("wnids.txt")
    classes = tuple(sorted(set(read(f"{root}wnids.txt").decode().split())))
    index = {wnid: label for label, wnid in enumerate(classes)}
    unused = []
    all_training = [name for name in names if name.startswith(f"{root}train/") and "/images/" in name]
    training = [name for name in all_training if _wnid(name, root) in index]
    if len(training) < len(all_training):
        count = len(all_training) - len(training)
        unused.append(Unused(f"{counted(count, 'training image')} of classes that wnids.txt does not list", count))
    if not training:
        raise ValueError(f"data.path: {path} has no images {root}train/<wnid>/images/*.JPEG")
    parts = {"train": _part(training, [index[_wnid(name, root)] for name in training], read)}
    layout = f"as published: {root}train/<wnid>/images"
    table = f"{root}val/val_annotations.txt"
    if table in names:
        validation = [name for name in names if name.startswith(f"{root}val/images/")]
        parts["validation"] = _part(validation, _validation_labels(validation, read(table), index), read)
        layout += f", {table}"
    test_count = sum(name.startswith(f"{root}test/images/") for name in names)
    if test_count:
        unused.append(Unused(f"{counted(test_count, 'test image')} without labels"))
    return Images(classes, parts, layout, tuple(unused))


def _wnid(name: str, root: str) -> str:
    """Return the WordNet ID of a training image, which is the name of its folder."""
    return name.removeprefix(f"{root}train/").split("/")[0]


def _validation_labels(names: list[str], table: bytes, index: dict[str, int]) -> list[int | None]:
    """Return the class index of each validation image, which the table val_annotations.txt gives as a WordNet ID."""
    lines = [line.split("\t") for line in table.decode().splitlines() if line.strip()]
    label_of = {line[0]: index.get(line[1]) for line in lines}
    return [label_of.get(name.rpartition("/")[2]) for name in names]


def _part(names: list[str], labels: list[int] | list[int | None], read: Callable[[str], bytes]) -> Part:
    """Return files of the data set as a part of a source."""

    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        return ((read(names[row]), names[row]) for row in rows)

    return Part(labels, images)
