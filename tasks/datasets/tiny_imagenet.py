"""Tiny ImageNet-200 as Stanford's CS231n publishes it: the zip, read without unpacking it, or the unpacked folder.

100,000 training and 10,000 validation images, 64 x 64, 200 classes; the test images have no labels and are not used.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets import Images, Left, Part, Source, fingerprint, location
from tasks.datasets._filekinds import kind
from tasks.datasets._words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tasks.datasets import Encoded
    from tasks.records import Data

    Tree = tuple[list[str], Callable[[str], bytes]]
    """(names of the files below a root, name -> content)"""

ARCHIVE = "tiny-imagenet-200.zip"
READS = ("path",)
NEEDS = ("path",)


def open(data: Data) -> Source:
    """Open data.path: the zip, a folder that holds it, or the unpacked folder.

    Classes are the wnids of wnids.txt, sorted; rows are sorted by file name.

    Raises
    ------
    ValueError
        When its images are asked for: not there, damaged, or laid out otherwise.
    """
    path = location(data)
    if path.is_dir() and (path / ARCHIVE).is_file():
        path = path / ARCHIVE

    def content() -> str:
        if path.is_dir():
            return fingerprint([path / name for name in _tree(path)[0]], path)
        # says what is wrong, if it is
        _tree(path)
        return fingerprint([path], path.parent)

    return Source(lambda: _load(path), content)


def _tree(path: Path) -> Tree:
    if path.is_dir():
        names = (
            Path(here, name).relative_to(path)
            for here, _, found in os.walk(path)
            for name in found
            if Path(here, name).is_file()
        )
        return sorted(name.as_posix() for name in names), lambda name: (path / name).read_bytes()
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
    names, read = _tree(path)
    lists = [name for name in names if name.rpartition("/")[2] == "wnids.txt"]
    if not lists:
        raise ValueError(f"data.path: {path} has no wnids.txt; give {ARCHIVE} or the folder it unpacks to")
    root = min(lists, key=len).removesuffix("wnids.txt")
    classes = tuple(sorted(set(read(f"{root}wnids.txt").decode().split())))
    index = {wnid: label for label, wnid in enumerate(classes)}
    parts: dict[str, Part] = {}
    left = []

    train = [name for name in names if name.startswith(f"{root}train/") and "/images/" in name]
    known = [name for name in train if _wnid(name, root) in index]
    if len(known) < len(train):
        count = len(train) - len(known)
        left.append(Left(f"{counted(count, 'training image')} of classes that wnids.txt does not list", count))
    if not known:
        raise ValueError(f"data.path: {path} has no images {root}train/<wnid>/images/*.JPEG")
    parts["train"] = _part(known, [index[_wnid(name, root)] for name in known], read)

    table = f"{root}val/val_annotations.txt"
    if table in names:
        lines = [line.split("\t") for line in read(table).decode().splitlines() if line.strip()]
        label = {line[0]: index.get(line[1]) for line in lines}
        images = [name for name in names if name.startswith(f"{root}val/images/")]
        parts["validation"] = _part(images, [label.get(name.rpartition("/")[2]) for name in images], read)
    if count := sum(name.startswith(f"{root}test/images/") for name in names):
        left.append(Left(f"{counted(count, 'test image')} without labels"))
    layout = f"as published: {root}train/<wnid>/images" + (f", {table}" if table in names else "")
    return Images(classes, parts, layout, tuple(left))


def _wnid(name: str, root: str) -> str:
    return name.removeprefix(f"{root}train/").split("/")[0]


def _part(names: list[str], labels: list[int] | list[int | None], read: Callable[[str], bytes]) -> Part:
    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        return ((read(names[row]), names[row]) for row in rows)

    return Part(labels, images)
