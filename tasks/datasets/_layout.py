"""How folders of images are laid out: which are classes, which are splits. What could be read in two ways is
refused."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.datasets import Left
from tasks.datasets._arrays import SPLITS
from tasks.datasets._words import counted, few, settle, shown, split_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.datasets._tree import Tree

    Classes = dict[str, list[str]]
    """Class folder -> names of its images, sorted."""

MERGED = 5
"""Folders inside of a class that a message names."""
DECIDES = "data.layout=classes or data.layout=splits decides"


class NoClasses(ValueError):
    """There are images, but no class folders."""


@dataclass
class Folder:
    """A folder, with what is in it and below."""

    path: str
    """Relative to the root, which is ""."""
    below: dict[str, Folder] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Folders in it whose names begin with a dot, with images."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def where(self) -> str:
        """The folder in words."""
        return shown(self.path) if self.path else "data.path"

    def holding(self) -> list[Folder]:
        """The sub-folders in which, or below which, images are; in order of their names."""
        return [folder for _, folder in sorted(self.below.items()) if next(folder.every("images"), None)]

    def every(self, kind: str) -> Iterator[str]:
        """Names of the files of a kind in the folder and below it, lazily."""
        yield from getattr(self, kind)
        for _, folder in sorted(self.below.items()):
            yield from folder.every(kind)


@dataclass
class Layout:
    """Images by split and class, and how that was read from the folders."""

    parts: dict[str, Classes]
    said: str
    """One sentence: which folders are the classes, which the splits."""
    left: list[Left] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Class folders of which nothing is used."""
    merged: list[str] = field(default_factory=list)
    """Class folders whose images come from several folders inside, with the number of each."""
    unlabelled: dict[str, list[str]] = field(default_factory=dict)
    """Split -> images whose label a table leaves empty."""
    tables: list[str] = field(default_factory=list)
    """Names of the tables that the labels come from; empty: they come from the folders."""
    column: str = ""
    """The column of labels in these tables."""


def folders_of(tree: Tree) -> Folder:
    """The folders of a tree, as a tree."""
    root = Folder("")

    def find(path: str) -> Folder:
        here = root
        for step in path.split("/") if path else ():
            here = here.below.setdefault(step, Folder(f"{here.path}/{step}" if here.path else step))
        return here

    for kind in ("images", "texts", "others", "links"):
        # folder -> its list: names come sorted, and folders have many
        known: dict[str, list[str]] = {}
        for name in getattr(tree, kind):
            parent = name.rpartition("/")[0]
            if parent not in known:
                known[parent] = getattr(find(parent), kind)
            known[parent].append(name)
    for name in tree.folders:
        find(name)
    for name in sorted(tree.hidden):
        if name.endswith("/"):
            find(name.rstrip("/").rpartition("/")[0]).hidden.append(name)
    return root


def descend(folder: Folder) -> Folder:
    """The first folder from here down that holds images itself or has several sub-folders that do."""
    while not folder.images and len(inside := folder.holding()) == 1 and inside[0].holding():
        folder = inside[0]
    return folder


def read_layout(root: Folder, asked: str, where: str) -> Layout:
    """Tell classes from splits.

    Parameters
    ----------
    asked
        "classes" or "splits" where the user has decided; "auto" to tell by the names and contents of the folders.
    where
        What to call the root in messages.

    Raises
    ------
    NoClasses
        There are images and no class folders.
    ValueError
        There are no images, or the folders can be read in two ways.
    """
    top = descend(root)
    inside = top.holding()
    if not inside and not top.images:
        raise ValueError(
            f"data.path: {where} has no sub-folder with images in it; a folder per class is needed, e.g. "
            f"{where}/cat/1.jpg"
        )
    layout = _told_apart(top, inside, asked, where)
    folder = root
    while folder is not top:
        _note_empty(layout, folder)
        (folder,) = folder.holding()
    return layout


def _told_apart(top: Folder, inside: list[Folder], asked: str, where: str) -> Layout:
    if asked == "classes":
        return _classes(top, inside, where)
    if not inside:
        raise NoClasses(
            f"data.path: {where} has no sub-folder with images in it, but {counted(len(top.images), 'image')} "
            f"itself; a folder per class is needed, e.g. {where}/cat/1.jpg, or a table (.csv) that names the "
            "label of each image"
        )
    splits = _split_folders(inside)
    if asked == "splits":
        if not splits:
            raise ValueError(
                f"data.layout=splits: none of the folders {few([f.name for f in inside])} in {where} is "
                "called train, validation or test"
            )
        return _splits(top, inside, splits, where)
    if not splits:
        if inverted := _inverted(top, inside):
            return inverted
        _refuse_alike(inside, where)
        return _classes(top, inside, where)
    others = [folder for folder in inside if folder not in splits.values()]
    deep = [folder for folder in splits.values() if folder.holding()]
    if not deep and not others:
        raise NoClasses(
            f"data.path: {few([f.path for f in inside])} in {where} are called after splits and hold images "
            "directly, without class folders; if they are the classes, set data.layout=classes"
        )
    if deep and (not others or len(splits) > 1):
        return _splits(top, inside, splits, where)
    if not deep and len(splits) == 1:
        return _classes(top, inside, where)
    named, rest = few([f.path for f in splits.values()]), few([f.path for f in others])
    raise ValueError(
        f"data.path: {where} can be read in two ways: {named} as splits, beside which {rest} would be left "
        f"out, or all of them as classes; {DECIDES}"
    )


def _split_folders(inside: list[Folder]) -> dict[str, Folder]:
    """Split -> its folder, among sub-folders: by plain names, or by names of one stem (seg_train, seg_test)."""
    said = [(folder, split_of(folder.name)) for folder in inside]
    found = [(folder, word) for folder, word in said if word and not word[1]]
    if not found:
        stems = Counter(word[1] for folder, word in said if word and folder.holding())
        stem = next((stem for stem, count in stems.items() if count > 1), None)
        found = [(folder, word) for folder, word in said if word and word[1] == stem]
    means = settle({word[0] for _, word in found})
    splits: dict[str, Folder] = {}
    for folder, word in found:
        split = means[word[0]]
        if split in splits:
            raise ValueError(
                f"data.path: {shown(splits[split].path)} and {shown(folder.path)} are both {split} images; "
                "keep one, or rename them; if they are classes, set data.layout=classes"
            )
        splits[split] = folder
    return splits


def _inverted(top: Folder, inside: list[Folder]) -> Layout | None:
    """Split folders inside of class folders: cat/train, cat/test, dog/train, dog/test."""
    if len(inside) < 2 or any(folder.images for folder in inside):
        return None
    words = {f.name: split_of(f.name) for folder in inside for f in folder.holding()}
    if len(words) < 2 or not all(word and not word[1] for word in words.values()):
        return None
    means = settle({word[0] for word in words.values() if word})
    if len({means[word[0]] for word in words.values() if word}) < len(words):
        return None
    layout = Layout(
        {},
        f"the classes are the {len(inside)} folders in {top.where}, the splits the folders "
        f"{few(sorted(words))} in each of them",
    )
    for folder in inside:
        for split in folder.holding():
            word = words[split.name]
            assert word
            layout.parts.setdefault(means[word[0]], {})[folder.name] = list(split.every("images"))
            _note_merged(layout, split)
        _note_beside(layout, folder, [])
    _note_beside(layout, top, [])
    return layout


def _refuse_alike(inside: list[Folder], where: str) -> None:
    """Refuse folders that all have the same class folders: they look like splits, and are not called so."""
    names = [{f.name for f in folder.holding()} for folder in inside]
    shared = set.intersection(*names)
    if len(inside) < 2 or len(shared) < 2 or 2 * len(shared) < len(set.union(*names)):
        return
    if any(folder.images for folder in inside):
        return
    raise ValueError(
        f"data.path: {where} can be read in two ways: {few([f.path for f in inside])} all have the folders "
        f"{few(sorted(shared))}, so that they may be splits (then call them train, validation and test) or "
        "classes (then set data.layout=classes)"
    )


def _classes(top: Folder, inside: list[Folder], where: str) -> Layout:
    if len(inside) < 2:
        named = f"one class folder only, {shown(inside[0].name)!r}" if inside else "no class folders"
        raise NoClasses(
            f"data.path: {where} has images in {named}; at least two are needed, e.g. {where}/cat/1.jpg and "
            f"{where}/dog/1.jpg"
        )
    layout = Layout(
        {"train": {f.name: list(f.every("images")) for f in inside}},
        f"the classes are the {len(inside)} folders in {top.where}; there are no split folders",
    )
    _refuse_same_looks(layout.parts["train"], where)
    _note_beside(layout, top, inside)
    for folder in inside:
        _note_merged(layout, folder)
    return layout


def _splits(top: Folder, inside: list[Folder], splits: dict[str, Folder], where: str) -> Layout:
    layout = Layout({}, "")
    known = {_fold(f.name) for f in descend(splits["train"]).holding()} if "train" in splits else set()
    for split, folder in splits.items():
        start = descend(folder)
        classes = start.holding()
        # test/unknown
        strange = len(classes) == 1 and len(known) > 1 and _fold(classes[0].name) not in known
        if split != "train" and (not classes or strange):
            count = sum(1 for _ in folder.every("images"))
            layout.left.append(
                Left(f"{counted(count, 'image')} in {shown(folder.path)} without class folders, and so without labels")
            )
            continue
        layout.parts[split] = {f.name: list(f.every("images")) for f in classes}
        _note_beside(layout, start, classes)
        for one in classes:
            _note_merged(layout, one)
    _note_empty(layout, top)
    for part in layout.parts.values():
        _refuse_same_looks(part, where)
    _refuse_cases(layout.parts, where)
    words = ", ".join(f"{shown(splits[split].path)} ({split})" for split in SPLITS if split in layout.parts)
    layout.said = f"the splits are the folders {words}, the classes the folders in them"
    others = [folder for folder in inside if folder not in splits.values()]
    for folder in others:
        count = sum(1 for _ in folder.every("images"))
        layout.left.append(Left(f"{counted(count, 'image')} in {shown(folder.path)}, which is no split", count))
    if count := len(top.images):
        layout.left.append(Left(f"{counted(count, 'image')} in {top.where} beside the split folders", count))
    return layout


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _refuse_same_looks(classes: Classes, where: str) -> None:
    """Refuse class folders of one part whose names differ in how accents are encoded alone."""
    same = Counter(unicodedata.normalize("NFC", name) for name in classes)
    if alike := sorted(name for name in classes if same[unicodedata.normalize("NFC", name)] > 1):
        raise ValueError(
            f"data.path: {where}: the class folders {few(list(map(ascii, alike)))} have names that look the "
            "same, and differ in how accents are encoded; give each class one name"
        )


def _refuse_cases(parts: dict[str, Classes], where: str) -> None:
    """Refuse class folders whose names differ between splits in capital letters, or in how accents are encoded,
    alone."""
    names = {name for classes in parts.values() for name in classes}
    folded = Counter(map(_fold, names))
    twice = sorted(name for name in names if folded[_fold(name)] > 1)
    per_split = any(len(set(map(_fold, classes))) < len(classes) for classes in parts.values())
    if twice and not per_split:
        raise ValueError(
            f"data.path: {where}: the class folders {few(twice)} differ between the splits in capital letters "
            "or accents alone; give each class one name"
        )


def _note_beside(layout: Layout, top: Folder, classes: list[Folder]) -> None:
    """Note what lies beside the class folders of `top`: loose images, folders without images, links not followed."""
    if count := len(top.images):
        layout.left.append(Left(f"{counted(count, 'image')} in {top.where} beside the class folders", count))
    used = {folder.name for folder in classes}
    for name, folder in sorted(top.below.items()):
        if name in used or folder.holding() or folder.images:
            continue
        data = sum(1 for _ in folder.every("others"))
        if data:
            layout.lost.append(f"{shown(folder.path)} ({counted(data, 'file')}, none of which is an image)")
        elif next(folder.every("texts"), None):
            layout.left.append(_without_images(folder))
        else:
            layout.lost.append(f"{shown(folder.path)} (an empty folder)")
    layout.lost += [
        f"{shown(link)} (a link to a folder that is read already, or that this one is in)" for link in top.links
    ]
    layout.lost += [f"{shown(name)} (a folder hidden by the dot before its name)" for name in top.hidden]


def _note_empty(layout: Layout, above: Folder) -> None:
    """Note the folders without images beside those that hold the classes, which may have been meant for a split."""
    layout.left += [
        _without_images(folder) for _, folder in sorted(above.below.items()) if not (folder.images or folder.holding())
    ]


def _without_images(folder: Folder) -> Left:
    texts = sum(1 for _ in folder.every("texts"))
    what = "split folder" if split_of(folder.name) else "folder"
    return Left(
        f"the {what} {shown(folder.path)}, which holds no images"
        + (f" ({counted(texts, 'text file')})" if texts else "")
    )


def _note_merged(layout: Layout, folder: Folder) -> None:
    """Note where the images of one class come from several folders, which may have been meant as classes themselves."""
    start = folder
    while not start.images and len(start.holding()) == 1:
        (start,) = start.holding()
    inside = start.holding()
    if len(inside) + bool(start.images) < 2:
        return
    each = [f"{shown(one.name)} {sum(1 for _ in one.every('images')):,}" for one in inside[:MERGED]]
    each += [f"{len(inside) - MERGED} more folders"] if len(inside) > MERGED else []
    each += [f"itself {len(start.images):,}"] if start.images else []
    layout.merged.append(f"{shown(folder.path)} ({', '.join(each)})")
