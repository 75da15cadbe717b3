"""Find out how folders of images are laid out: which are classes and which are splits.

A layout that could be read in two ways is refused, with what the user can set to decide.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.datasets._arrays import SPLITS
from tasks.datasets._folders import Folder, descend
from tasks.datasets._source import Unused
from tasks.datasets._words import counted, few, plain_split_word, settle, shown, split_of, split_word

if TYPE_CHECKING:
    Classes = dict[str, list[str]]
    """For each class folder, the names of its images, sorted."""

MERGED = 5
"""A message names at most this many of the folders inside a class folder."""
DECIDES = "data.layout=classes or data.layout=splits decides"


class NoClasses(ValueError):
    """There are images, but no class folders."""


@dataclass
class Layout:
    """Images by split and class, and how that was read from the folders or from tables."""

    parts: dict[str, Classes]
    """For each split, its classes."""
    description: str
    """A sentence that says which folders are the classes and which the splits."""
    unused: list[Unused] = field(default_factory=list)
    lost_classes: list[str] = field(default_factory=list)
    """Class folders of which no image is used, each with the reason."""
    merged_classes: list[str] = field(default_factory=list)
    """Class folders whose images come from several folders inside, each with the number of images per folder."""
    unlabelled: dict[str, list[str]] = field(default_factory=dict)
    """For each split, the images whose label a table leaves empty."""
    tables: list[str] = field(default_factory=list)
    """Names of the tables from which the labels are read. Empty if the folders give the labels."""
    column: str = ""
    """Name of the column of labels in these tables."""


def read_layout(root: Folder, layout_setting: str, where: str) -> Layout:
    """Tell classes from splits.

    Parameters
    ----------
    layout_setting
        "classes" or "splits" if the user has decided, "auto" to decide by the names and contents of the folders.
    where
        What to call the root in messages.

    Raises
    ------
    NoClasses
        If there are images, but no class folders.
    ValueError
        If there are no images, or the folders can be read in two ways.
    """
    top = descend(root)
    inside = top.holding()
    if not inside and not top.images:
        raise ValueError(
            f"data.path: {where} has no sub-folder with images in it; a folder per class is needed, e.g. "
            f"{where}/cat/1.jpg"
        )
    layout = _decide(top, inside, layout_setting, where)
    folder = root
    while folder is not top:
        _note_empty(layout, folder)
        (folder,) = folder.holding()
    return layout


def _decide(top: Folder, inside: list[Folder], layout_setting: str, where: str) -> Layout:
    """Decide whether the folders `inside` the folder `top` are classes or splits, and return the layout."""
    if layout_setting == "classes":
        return _layout_of_classes(top, inside, where)
    if not inside:
        raise NoClasses(
            f"data.path: {where} has no sub-folder with images in it, but {counted(len(top.images), 'image')} "
            f"itself; a folder per class is needed, e.g. {where}/cat/1.jpg, or a table (.csv) that names the "
            "label of each image"
        )
    splits = _split_folders(inside)
    if layout_setting == "splits":
        if not splits:
            raise ValueError(
                f"data.layout=splits: none of the folders {few([folder.name for folder in inside])} in {where} is "
                "called train, validation or test"
            )
        return _layout_of_splits(top, inside, splits, where)
    if splits:
        return _decide_by_splits(top, inside, splits, where)
    layout = _layout_of_splits_in_classes(top, inside)
    if layout is not None:
        return layout
    _refuse_alike(inside, where)
    return _layout_of_classes(top, inside, where)


def _decide_by_splits(top: Folder, inside: list[Folder], splits: dict[str, Folder], where: str) -> Layout:
    """Decide as `_decide` does, where some of the folders inside are named after splits."""
    others = [folder for folder in inside if folder not in splits.values()]
    with_classes = [folder for folder in splits.values() if folder.holding()]
    if not with_classes and not others:
        raise NoClasses(
            f"data.path: {few([folder.path for folder in inside])} in {where} are called after splits and hold images "
            "directly, without class folders; if they are the classes, set data.layout=classes"
        )
    if with_classes and (not others or len(splits) > 1):
        return _layout_of_splits(top, inside, splits, where)
    if not with_classes and len(splits) == 1:
        return _layout_of_classes(top, inside, where)
    split_names = few([folder.path for folder in splits.values()])
    other_names = few([folder.path for folder in others])
    raise ValueError(
        f"data.path: {where} can be read in two ways: {split_names} as splits, beside which {other_names} would be "
        f"left out, or all of them as classes; {DECIDES}"
    )


def _split_folders(folders: list[Folder]) -> dict[str, Folder]:
    """Return, for each split, the one of the folders that is named after it.

    They have plain names (train, test) or names with the same words beside the split (seg_train, seg_test).
    """
    named = []
    for folder in folders:
        split_and_rest = split_of(folder.name)
        if split_and_rest:
            named.append((folder, *split_and_rest))
    chosen = [(folder, word) for folder, word, rest in named if not rest]
    if not chosen:
        counts = Counter(rest for folder, _, rest in named if folder.holding())
        shared = next((rest for rest, count in counts.items() if count > 1), None)
        chosen = [(folder, word) for folder, word, rest in named if rest == shared]
    meanings = settle({word for _, word in chosen})
    splits: dict[str, Folder] = {}
    for folder, word in chosen:
        split = meanings[word]
        if split in splits:
            raise ValueError(
                f"data.path: {shown(splits[split].path)} and {shown(folder.path)} are both {split} images; "
                "keep one, or rename them; if they are classes, set data.layout=classes"
            )
        splits[split] = folder
    return splits


def _layout_of_splits_in_classes(top: Folder, inside: list[Folder]) -> Layout | None:
    """Return the layout if there are split folders in class folders (cat/train, cat/test, dog/train, dog/test)."""
    if len(inside) < 2 or any(folder.images for folder in inside):
        return None
    words: dict[str, str] = {}
    for split_folder in (inner for folder in inside for inner in folder.holding()):
        word = plain_split_word(split_folder.name)
        if word is None:
            return None
        words[split_folder.name] = word
    meanings = settle(set(words.values()))
    if len(words) < 2 or len({meanings[word] for word in words.values()}) < len(words):
        return None
    layout = Layout(
        {},
        f"the classes are the {len(inside)} folders in {top.where}, the splits the folders "
        f"{few(sorted(words))} in each of them",
    )
    for folder in inside:
        for split_folder in folder.holding():
            split = meanings[words[split_folder.name]]
            layout.parts.setdefault(split, {})[folder.name] = list(split_folder.every("images"))
            _note_merged(layout, split_folder)
        _note_beside(layout, folder, [])
    _note_beside(layout, top, [])
    return layout


def _refuse_alike(inside: list[Folder], where: str) -> None:
    """Refuse folders that all have the same class folders: they look like splits, but are not named after splits."""
    names = [{inner.name for inner in folder.holding()} for folder in inside]
    shared = set.intersection(*names)
    if len(inside) < 2 or len(shared) < 2 or 2 * len(shared) < len(set.union(*names)):
        return
    if any(folder.images for folder in inside):
        return
    raise ValueError(
        f"data.path: {where} can be read in two ways: {few([folder.path for folder in inside])} all have the folders "
        f"{few(sorted(shared))}, so that they may be splits (then call them train, validation and test) or "
        "classes (then set data.layout=classes)"
    )


def _layout_of_classes(top: Folder, inside: list[Folder], where: str) -> Layout:
    """Return the layout in which the folders `inside` are classes, and there are no splits."""
    if len(inside) < 2:
        folders = f"one class folder only, {shown(inside[0].name)!r}" if inside else "no class folders"
        raise NoClasses(
            f"data.path: {where} has images in {folders}; at least two are needed, e.g. {where}/cat/1.jpg and "
            f"{where}/dog/1.jpg"
        )
    layout = Layout(
        {"train": {folder.name: list(folder.every("images")) for folder in inside}},
        f"the classes are the {len(inside)} folders in {top.where}; there are no split folders",
    )
    _refuse_same_looks(layout.parts["train"], where)
    _note_beside(layout, top, inside)
    for folder in inside:
        _note_merged(layout, folder)
    return layout


def _layout_of_splits(top: Folder, inside: list[Folder], splits: dict[str, Folder], where: str) -> Layout:
    """Return the layout in which the folders in `splits` are the splits, and the folders in them the classes."""
    layout = Layout({}, "")
    known_classes = set()
    if "train" in splits:
        known_classes = {_fold(folder.name) for folder in descend(splits["train"]).holding()}
    for split, folder in splits.items():
        _add_split(layout, split, folder, known_classes)
    _note_empty(layout, top)
    for part in layout.parts.values():
        _refuse_same_looks(part, where)
    _refuse_cases(layout.parts, where)
    names = ", ".join(f"{shown(splits[split].path)} ({split})" for split in SPLITS if split in layout.parts)
    layout.description = f"the splits are the folders {names}, the classes the folders in them"
    for folder in inside:
        if folder not in splits.values():
            count = folder.count("images")
            layout.unused.append(Unused(f"{counted(count, 'image')} in {shown(folder.path)}, which is no split", count))
    count = len(top.images)
    if count:
        layout.unused.append(Unused(f"{counted(count, 'image')} in {top.where} beside the split folders", count))
    return layout


def _add_split(layout: Layout, split: str, folder: Folder, known_classes: set[str]) -> None:
    """Add the classes in a split folder to the layout, or a note if there are none.

    A single folder in it that is no class of the training split, such as test/unknown, is no class either.
    """
    start = descend(folder)
    classes = start.holding()
    is_unknown = len(classes) == 1 and len(known_classes) > 1 and _fold(classes[0].name) not in known_classes
    if split != "train" and (not classes or is_unknown):
        images = counted(folder.count("images"), "image")
        layout.unused.append(Unused(f"{images} in {shown(folder.path)} without class folders, and so without labels"))
        return
    layout.parts[split] = {inner.name: list(inner.every("images")) for inner in classes}
    _note_beside(layout, start, classes)
    for inner in classes:
        _note_merged(layout, inner)


def _fold(name: str) -> str:
    """Return a name without the differences of capital letters and of how accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def _refuse_same_looks(classes: Classes, where: str) -> None:
    """Refuse class folders of one part whose names differ only in how accents are encoded."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in classes)
    alike = sorted(name for name in classes if counts[unicodedata.normalize("NFC", name)] > 1)
    if alike:
        raise ValueError(
            f"data.path: {where}: the class folders {few(list(map(ascii, alike)))} have names that look the "
            "same, and differ in how accents are encoded; give each class one name"
        )


def _refuse_cases(parts: dict[str, Classes], where: str) -> None:
    """Refuse class folders whose names differ between splits only in capital letters or in how accents are encoded.

    If such names occur within one split, they are different classes.
    """
    names = {name for classes in parts.values() for name in classes}
    counts = Counter(map(_fold, names))
    alike = sorted(name for name in names if counts[_fold(name)] > 1)
    occur_within_a_split = any(len(set(map(_fold, classes))) < len(classes) for classes in parts.values())
    if alike and not occur_within_a_split:
        raise ValueError(
            f"data.path: {where}: the class folders {few(alike)} differ between the splits in capital letters "
            "or accents alone; give each class one name"
        )


def _note_beside(layout: Layout, top: Folder, classes: list[Folder]) -> None:
    """Note what lies beside the class folders of `top`: loose images, folders without images, links not followed."""
    count = len(top.images)
    if count:
        layout.unused.append(Unused(f"{counted(count, 'image')} in {top.where} beside the class folders", count))
    class_names = {folder.name for folder in classes}
    for name, folder in sorted(top.below.items()):
        if name in class_names or folder.holding() or folder.images:
            continue
        others = folder.count("others")
        if others:
            layout.lost_classes.append(f"{shown(folder.path)} ({counted(others, 'file')}, none of which is an image)")
        elif next(folder.every("texts"), None):
            layout.unused.append(_without_images(folder))
        else:
            layout.lost_classes.append(f"{shown(folder.path)} (an empty folder)")
    layout.lost_classes += [
        f"{shown(link)} (a link to a folder that is read already, or that this one is in)" for link in top.links
    ]
    layout.lost_classes += [f"{shown(name)} (a folder hidden by the dot before its name)" for name in top.hidden]


def _note_empty(layout: Layout, above: Folder) -> None:
    """Note the folders without images in a folder above the classes. Any of them may have been meant for a split."""
    layout.unused += [
        _without_images(folder) for _, folder in sorted(above.below.items()) if not (folder.images or folder.holding())
    ]


def _without_images(folder: Folder) -> Unused:
    """Return a note of a folder without images."""
    folder_kind = "split folder" if split_word(folder.name) else "folder"
    texts = folder.count("texts")
    content = f" ({counted(texts, 'text file')})" if texts else ""
    return Unused(f"the {folder_kind} {shown(folder.path)}, which holds no images{content}")


def _note_merged(layout: Layout, folder: Folder) -> None:
    """Note a class folder whose images come from several folders inside, which may have been meant as classes."""
    start = folder
    while not start.images and len(start.holding()) == 1:
        (start,) = start.holding()
    inside = start.holding()
    if len(inside) + bool(start.images) < 2:
        return
    counts = [f"{shown(inner.name)} {inner.count('images'):,}" for inner in inside[:MERGED]]
    if len(inside) > MERGED:
        counts.append(f"{len(inside) - MERGED} more folders")
    if start.images:
        counts.append(f"itself {len(start.images):,}")
    layout.merged_classes.append(f"{shown(folder.path)} ({', '.join(counts)})")
