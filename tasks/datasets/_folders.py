"""The files of a tree by the folders that they are in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.datasets._words import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.datasets._tree import Tree


@dataclass
class Folder:
    """A folder, with the files in it and its sub-folders."""

    path: str
    """The path relative to the root. That of the root is an empty text."""
    below: dict[str, Folder] = field(default_factory=dict)
    """The sub-folders by name."""
    images: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Sub-folders with images whose names begin with a dot."""

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path.rpartition("/")[2]

    @property
    def where(self) -> str:
        """What to call the folder in messages."""
        return shown(self.path) if self.path else "data.path"

    def holding(self) -> list[Folder]:
        """Return the sub-folders that hold images, themselves or in folders below them, sorted by name."""
        return [folder for _, folder in sorted(self.below.items()) if next(folder.every("images"), None)]

    def every(self, kind: str) -> Iterator[str]:
        """Yield the names of the files of a kind ("images", "texts", ...) in this folder and below it."""
        yield from getattr(self, kind)
        for _, folder in sorted(self.below.items()):
            yield from folder.every(kind)

    def count(self, kind: str) -> int:
        """Return the number of files of a kind ("images", "texts", ...) in this folder and below it."""
        return len(getattr(self, kind)) + sum(folder.count(kind) for folder in self.below.values())


def folders_of(tree: Tree) -> Folder:
    """Return the root of a tree as a folder with all its files and sub-folders."""
    root = Folder("")

    def find(path: str) -> Folder:
        """Return the folder at a path, which is made if it is not there."""
        folder = root
        for step in path.split("/") if path else ():
            folder = folder.below.setdefault(step, Folder(f"{folder.path}/{step}" if folder.path else step))
        return folder

    for kind in ("images", "texts", "others", "links"):
        # The list of each folder is looked up once, because a folder may have very many files.
        list_of_parent: dict[str, list[str]] = {}
        for name in getattr(tree, kind):
            parent = name.rpartition("/")[0]
            if parent not in list_of_parent:
                list_of_parent[parent] = getattr(find(parent), kind)
            list_of_parent[parent].append(name)
    for name in tree.folders:
        find(name)
    for name in sorted(tree.hidden):
        if name.endswith("/"):
            find(name.rstrip("/").rpartition("/")[0]).hidden.append(name)
    return root


def descend(folder: Folder) -> Folder:
    """Follow single sub-folders down to the first folder that holds images itself, or in several sub-folders."""
    while not folder.images:
        holding = folder.holding()
        if len(holding) != 1 or not holding[0].holding():
            break
        folder = holding[0]
    return folder
