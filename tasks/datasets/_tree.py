"""List the files of a folder or a zip, and tell by their content which of them are images.

Each real folder is read once, whatever links lead to it. A zip is not unpacked.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets._decode import Bad, format_of
from tasks.datasets._filekinds import BYTE_ORDER_MARKS, HEAD, broken_zip, head_of, is_utf8, kind
from tasks.datasets._hidden import SUFFIXES, images_in, is_hidden, is_image
from tasks.datasets._words import is_junk, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.datasets._decode import Encoded

MOST = 20_000
"""The search is given up if none of the first files, this many, is an image."""
ENTRY_BYTES = 1 << 30
"""An image file in a zip may unpack to at most this many bytes."""
JUNK = "left by systems, notebooks and tools"
"""A reason why a file or folder is no part of a data set."""
HIDDEN = "hidden by a dot before the name, without images"
"""A reason why a file or folder is no part of a data set."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError)
"""The exceptions that reading a damaged member of a zip raises."""


@dataclass
class Tree:
    """The files of a folder or a zip. All names are relative to its root, with "/" between folders, and sorted."""

    root: Path
    read: Callable[[str], Encoded]
    """Takes the name of a file, and returns its path, or its bytes if it is in a zip."""
    archive: bool = False
    """Whether `root` is a zip."""
    images: list[str] = field(default_factory=list)
    """Images by content or by suffix, including those of a format that is not decoded."""
    texts: list[str] = field(default_factory=list)
    """Text files: tables, annotations, read-me files."""
    others: list[str] = field(default_factory=list)
    """Files that are neither images nor texts."""
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Links that are not followed, because they lead to a folder that is read already, or to one above the root."""
    dead: list[str] = field(default_factory=list)
    """Links to nothing, pipes, sockets and devices."""
    unnamed: int = 0
    """Number of images by content whose suffix is not that of an image."""
    absolute: int = 0
    """Number of a zip's members with an absolute path. They are read as if they were below the zip's root."""
    skipped: Counter[str] = field(default_factory=Counter)
    """For each reason, the number of files and folders that are no part of a data set because of their names."""
    hidden: dict[str, int] = field(default_factory=dict)
    """For each file and folder whose name begins with a dot, the number of images in it, if any.

    The names of folders end in a slash.
    """

    def hide(self, name: str, images: int) -> None:
        """Note a hidden file or folder with the number of images in it."""
        if images:
            self.hidden[name] = self.hidden.get(name, 0) + images
        else:
            self.skipped[HIDDEN] += 1

    def add(self, name: str, head: Callable[[], bytes]) -> None:
        """Add a file to the images, texts or others, by its suffix or else by its first bytes, which `head` reads."""
        if name.lower().endswith(SUFFIXES):
            self.images.append(name)
            return
        first_bytes = head()
        if format_of(first_bytes):
            self.images.append(name)
            self.unnamed += 1
        elif _is_text(first_bytes):
            self.texts.append(name)
        else:
            self.others.append(name)

    def sort(self) -> None:
        """Sort all names."""
        for names in (self.images, self.texts, self.others, self.folders, self.links, self.dead):
            names.sort()


def _is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text in UTF-8 or UTF-16."""
    return head.startswith(BYTE_ORDER_MARKS) or (b"\0" not in head and is_utf8(head))


def read_tree(root: Path) -> Tree:
    """List the files of a folder or a zip.

    Raises
    ------
    ValueError
        If nothing is there, it is neither a folder nor a zip, or it cannot be read.
    """
    if root.is_dir():
        return _folder_tree(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return _zip_tree(root)
    file_kind = (kind(root) or "a file") if root.is_file() else "not there"
    raise ValueError(f"data.path: {shown(str(root))} is {file_kind}; a folder is needed, or a zip of one")


def _folder_tree(root: Path) -> Tree:
    """List the files of a folder."""
    tree = Tree(root, lambda name: root / name)
    try:
        for name, entry in _walk(root, tree):
            tree.add(name, partial(_head_of_entry, entry))
            if not tree.images and len(tree.texts) + len(tree.others) >= MOST:
                raise ValueError(
                    f"data.path: the first {MOST:,} files in {shown(str(root))} hold no image; give the "
                    "folder of the images itself"
                )
    except OSError as error:
        raise ValueError(f"data.path: {shown(str(error.filename))} cannot be read: {error.strerror}") from error
    tree.sort()
    return tree


def _head_of_entry(entry: os.DirEntry[str]) -> bytes:
    """Return the first bytes of a file in a folder."""
    return head_of(Path(entry.path))


def _identity(path: Path) -> tuple[int, int]:
    """Return the numbers of the device and the inode, which are the same for two paths to one folder."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(root: Path, tree: Tree) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the name and the entry of each file, and note in `tree` what else is there.

    Real folders come first, then those that links lead to. Each is read once.
    """
    visited = {_identity(folder) for folder in root.resolve().parents}
    folders = [""]
    links: list[str] = []
    while folders or links:
        name = folders.pop() if folders else links.pop(0)
        identity = _identity(root / name)
        if identity in visited:
            tree.links.append(name)
            continue
        visited.add(identity)
        if name:
            tree.folders.append(name)
        with os.scandir(root / name) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{name}/{entry.name}" if name else entry.name
                entry_kind = _kind(entry)
                if is_junk(entry.name, folder=entry_kind == "folder"):
                    tree.skipped[JUNK] += 1
                elif is_hidden(entry.name):
                    images = images_in(Path(entry.path), root) if entry_kind else 0
                    tree.hide(f"{path}/" if entry_kind == "folder" else path, images)
                elif entry_kind == "file":
                    yield path, entry
                elif entry_kind == "folder":
                    (links if entry.is_symlink() else folders).append(path)
                else:
                    tree.dead.append(path)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file", or an empty text for a link to nothing, a pipe, a socket or a device."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else ""
    except OSError:
        # A chain of links that leads back to itself is a link to nothing.
        if entry.is_symlink():
            return ""
        raise


def _zip_tree(path: Path) -> Tree:
    """List the members of a zip."""
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
        except DAMAGED as error:
            return Bad("undecodable image", f"damaged in the zip: {error}")

    def head(info: zipfile.ZipInfo) -> bytes:
        try:
            with archive.open(info) as file:
                return file.read(HEAD)
        except DAMAGED as error:
            raise ValueError(f"data.path: {shown(str(path))} is damaged at {shown(info.filename)}: {error}") from error

    tree = Tree(path, read, archive=True, absolute=sum(_is_absolute(_name_in_zip(info)) for info in listed))
    doubled = len(listed) - len(entries)
    if doubled:
        tree.skipped["with the name of a later one in the zip"] = doubled
    for name, info in entries.items():
        _add_member(tree, name, info, partial(head, info))
    tree.folders = list(set(tree.folders))
    tree.sort()
    return tree


def _add_member(tree: Tree, name: str, info: zipfile.ZipInfo, head: Callable[[], bytes]) -> None:
    """Add a member of a zip to the tree, or note why it is left out."""
    steps = name.split("/")
    is_folder = info.filename.endswith(("/", "\\"))
    folders = steps if is_folder else steps[:-1]
    if any(is_junk(step, folder=True) for step in folders) or (not is_folder and is_junk(steps[-1])):
        tree.skipped[JUNK] += 1
        return
    hidden_depth = next((depth for depth, step in enumerate(steps, 1) if is_hidden(step)), None)
    if hidden_depth is not None:
        hidden_name = "/".join(steps[:hidden_depth])
        if hidden_depth < len(steps):
            hidden_name += "/"
        images = int(not is_folder and is_image(name, head))
        tree.hide(hidden_name, images)
        return
    tree.folders.extend("/".join(folders[:depth]) for depth in range(1, len(folders) + 1))
    if stat.S_ISLNK(info.external_attr >> 16):
        tree.dead.append(name)
    elif not is_folder:
        tree.add(name, head)


def _is_absolute(name: str) -> bool:
    """Return whether the name of a zip's member is an absolute path, with the letter of a drive or without."""
    return re.match("(?:[A-Za-z]:)?/", name) is not None


def _inside(name: str, path: Path) -> str:
    """Return the name of a zip's member relative to the zip's root.

    An absolute path loses its root or drive, as when unzip unpacks it.

    Raises
    ------
    ValueError
        If the name leads out of the folder into which the zip would be unpacked.
    """
    relative = re.sub("^[A-Za-z]:/", "", name)
    steps = [step for step in relative.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise ValueError(
            f"data.path: {shown(str(path))} has the member {shown(name)}, which leads out of the zip's own "
            "folder; make the zip anew from within the folder of the images"
        )
    return "/".join(steps)


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return the name of a zip's member, with slashes between folders.

    Many programs write UTF-8 without the flag that says so. Python reads such names as cp437, which is undone here.
    """
    name = info.filename.replace("\\", "/")
    is_marked_utf8 = bool(info.flag_bits & 0x800)
    if is_marked_utf8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return name
