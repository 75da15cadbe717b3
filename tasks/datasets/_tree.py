"""The files of a folder or a zip: which of them are images by content, each real folder read once, nothing unpacked."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._decode import Bad, format_of
from tasks.datasets._filekinds import BYTE_ORDER_MARKS, HEAD, broken_zip, head_of, kind
from tasks.datasets._hidden import SUFFIXES, images_in, is_hidden, is_image
from tasks.datasets._words import is_junk, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.datasets import Encoded

MOST = 20_000
"""Files that are looked into before the first image is found, at most."""
ENTRY_BYTES = 1 << 30
"""An image file in a zip may not unpack to more."""
JUNK, HIDDEN = "left by systems, notebooks and tools", "hidden by a dot before the name, without images"
"""Why files and folders are no part of a data set by their names."""


@dataclass
class Tree:
    """Files below a root; names are relative to it, with "/" between folders."""

    root: Path
    read: Callable[[str], Encoded]
    """Name of a file -> its path, or its bytes where it is in a zip."""
    archive: bool = False
    images: list[str] = field(default_factory=list)
    """Sorted. Images by content or by suffix, also those of a format that cannot be decoded here."""
    texts: list[str] = field(default_factory=list)
    """Text files: tables, annotations, read-me files."""
    others: list[str] = field(default_factory=list)
    """Files that are neither."""
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Links that lead to a folder which is read already, or above the root: they are not followed."""
    dead: list[str] = field(default_factory=list)
    """Links to nothing, pipes, sockets and devices."""
    unnamed: int = 0
    """Images by content whose suffix is not an image's."""
    absolute: int = 0
    """Members of a zip with an absolute path, which are read as below the zip's root."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Why -> number of files and folders that are no part of a data set by their names."""
    hidden: dict[str, int] = field(default_factory=dict)
    """Files, and folders with a slash at the end, whose names begin with a dot -> number of images in each, 1 or
    more."""

    def hide(self, name: str, images: int) -> None:
        """Sort a hidden file or folder in."""
        if images:
            self.hidden[name] = self.hidden.get(name, 0) + images
        else:
            self.skipped[HIDDEN] += 1

    def add(self, name: str, head: Callable[[], bytes]) -> None:
        """Sort a file in, by its suffix or else by its first bytes."""
        if name.lower().endswith(SUFFIXES):
            self.images.append(name)
            return
        start = head()
        if format_of(start):
            self.images.append(name)
            self.unnamed += 1
        elif _is_text(start):
            self.texts.append(name)
        else:
            self.others.append(name)

    def sorted(self) -> Tree:
        for names in (self.images, self.texts, self.others, self.folders, self.links, self.dead):
            names.sort()
        return self


def _is_text(start: bytes) -> bool:
    if start.startswith(BYTE_ORDER_MARKS):
        return True
    if b"\0" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        # a character that the last byte read cuts
        return error.start > len(start) - 4
    return True


def read_tree(root: Path) -> Tree:
    """The files of a folder, or of a zip.

    Raises
    ------
    ValueError
        Nothing is there, it is neither, or it cannot be read.
    """
    if root.is_dir():
        tree = Tree(root, lambda name: root / name)
        try:
            for name, entry in _walk(root, tree):
                tree.add(name, lambda entry=entry: head_of(Path(entry.path)))  # type: ignore[misc]
                if not tree.images and len(tree.texts) + len(tree.others) >= MOST:
                    raise ValueError(
                        f"data.path: the first {MOST:,} files in {shown(str(root))} hold no image; give the "
                        "folder of the images itself"
                    )
        except OSError as error:
            raise ValueError(f"data.path: {shown(str(error.filename))} cannot be read: {error.strerror}") from error
        return tree.sorted()
    if root.is_file() and zipfile.is_zipfile(root):
        return _zip_tree(root)
    what = (kind(root) or "a file") if root.is_file() else "not there"
    raise ValueError(f"data.path: {shown(str(root))} is {what}; a folder is needed, or a zip of one")


def _ident(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _walk(root: Path, tree: Tree) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(Name, entry) of each file. Real folders come first, then those that links lead to; each is read once."""
    seen = {_ident(folder) for folder in root.resolve().parents}
    folders = [""]
    links: list[str] = []
    while folders or links:
        name = folders.pop() if folders else links.pop(0)
        ident = _ident(root / name)
        if ident in seen:
            tree.links.append(name)
            continue
        seen.add(ident)
        if name:
            tree.folders.append(name)
        with os.scandir(root / name) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = f"{name}/{entry.name}" if name else entry.name
                kind = _kind(entry)
                if is_junk(entry.name, folder=kind == "folder"):
                    tree.skipped[JUNK] += 1
                elif is_hidden(entry.name):
                    tree.hide(
                        f"{below}/" if kind == "folder" else below, images_in(Path(entry.path), root) if kind else 0
                    )
                elif kind == "file":
                    yield below, entry
                elif kind == "folder":
                    (links if entry.is_symlink() else folders).append(below)
                else:
                    tree.dead.append(below)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:
        # a chain of links that leads back to itself
        if entry.is_symlink():
            return ""
        raise


def _zip_tree(path: Path) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
        listed = archive.infolist()
        entries = {_inside(_name_in_zip(info), path): info for info in listed}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"data.path: {shown(str(path))} is {broken_zip(path) or error}") from error
    if any(info.flag_bits & 1 for info in entries.values()):
        raise ValueError(f"data.path: {shown(str(path))} is encrypted; unpack it and give the folder")

    def read(name: str) -> bytes | Bad:
        info = entries[name]
        if info.file_size > ENTRY_BYTES:
            return Bad("undecodable image", f"it unpacks to {info.file_size} bytes")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            return Bad("undecodable image", f"damaged in the zip: {error}")

    def head(info: zipfile.ZipInfo) -> bytes:
        try:
            with archive.open(info) as file:
                return file.read(HEAD)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise ValueError(f"data.path: {shown(str(path))} is damaged at {shown(info.filename)}: {error}") from error

    tree = Tree(path, read, archive=True, absolute=sum(_is_absolute(_name_in_zip(info)) for info in listed))
    if doubled := len(listed) - len(entries):
        tree.skipped["with the name of a later one in the zip"] = doubled
    for name, info in entries.items():
        _add_member(tree, name, info, lambda info=info: head(info))  # type: ignore[misc]
    tree.folders = list(set(tree.folders))
    return tree.sorted()


def _add_member(tree: Tree, name: str, info: zipfile.ZipInfo, head: Callable[[], bytes]) -> None:
    """Sort a member of a zip in."""
    steps = name.split("/")
    is_folder = info.filename.endswith(("/", "\\"))
    folders = steps if is_folder else steps[:-1]
    if any(is_junk(step, folder=True) for step in folders) or (not is_folder and is_junk(steps[-1])):
        tree.skipped[JUNK] += 1
        return
    if (hidden := next((i for i, step in enumerate(steps, 1) if is_hidden(step)), None)) is not None:
        image = not is_folder and is_image(name, head)
        tree.hide("/".join(steps[:hidden]) + "/" * (hidden < len(steps)), int(image))
        return
    tree.folders.extend("/".join(folders[: i + 1]) for i in range(len(folders)))
    if stat.S_ISLNK(info.external_attr >> 16):
        tree.dead.append(name)
    elif not is_folder:
        tree.add(name, head)


def _is_absolute(name: str) -> bool:
    return re.match("(?:[A-Za-z]:)?/", name) is not None


def _inside(name: str, path: Path) -> str:
    """A member's name below the zip's root: of an absolute path what follows the root or the drive, as unzip reads it.

    Raises
    ------
    ValueError
        If it leads out of the folder into which the zip would be unpacked.
    """
    below = re.sub("^[A-Za-z]:/", "", name)
    steps = [step for step in below.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise ValueError(
            f"data.path: {shown(str(path))} has the member {shown(name)}, which leads out of the zip's own "
            "folder; make the zip anew from within the folder of the images"
        )
    return "/".join(steps)


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """A file's name: many programs write UTF-8 without the flag that says so, which Python then reads as cp437."""
    name = info.filename.replace("\\", "/")
    if info.flag_bits & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return name
