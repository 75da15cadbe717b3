"""Folders of images, or a zip of them: a folder per class, inside split folders or not; or a table that names the
labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from tasks.datasets import Images, Left, Part, Source, fingerprint, location
from tasks.datasets._hidden import hidden_images
from tasks.datasets._labels import LABELS, find_tables, is_table, read_labels
from tasks.datasets._layout import Layout, NoClasses, folders_of, read_layout
from tasks.datasets._tree import HIDDEN, JUNK, Tree, read_tree
from tasks.datasets._words import counted, few, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.datasets import Encoded
    from tasks.records import Data

READS = ("path", "layout", "image", "label")
NEEDS = ("path",)


def open(data: Data) -> Source:
    """Open data.path: a folder, a zip of one, or a table (.csv, .tsv, .jsonl) of labels beside its images.

    Classes are the sub-folders that hold images, sorted by name, in split folders (train, val, test and the like) or
    not; files in deeper folders belong to the class above. Without class folders, a table gives each image's label.
    Rows are sorted by class and path. What an image is, its content tells. A folder that is reached twice is read once.

    Raises
    ------
    ValueError
        When its images are asked for: nothing there, no classes or one, or a layout that can be read in two ways.
    """
    path = location(data)
    table = path if is_table(path) else None
    root = path.parent if table else path

    @cache
    def found() -> tuple[Tree, Layout]:
        tree = read_tree(root)
        return tree, _read(tree, data, table.name if table else None)

    def content() -> str:
        tree, layout = found()
        named = hashlib.sha256(repr((layout.said, layout.left, layout.lost, _beside(tree, layout))).encode())
        if tree.archive:
            files, top = [tree.root], tree.root.parent
        else:
            names = [n for classes in layout.parts.values() for images in classes.values() for n in images]
            files, top = [root / name for name in (*names, *layout.tables)], root
        return hashlib.sha256((fingerprint(files, top) + named.hexdigest()).encode()).hexdigest()

    return Source(lambda: _load(*found()), content)


def _read(tree: Tree, data: Data, table: str | None) -> Layout:
    """By a table of labels where the user names one of its columns, or where there are no class folders."""
    where = shown(str(tree.root))
    root = folders_of(tree)
    if table or data.label or data.image:
        return read_labels(tree, [table] if table else find_tables(tree), data, where)
    tables = find_tables(tree)
    try:
        layout = read_layout(root, data.layout, where)
    except ValueError as error:
        if not isinstance(error, NoClasses) or not tables or data.layout == "classes":
            unused = hidden_images(tree.hidden)
            raise ValueError(f"{error}; not used are {unused}" if unused else str(error)) from None
        return read_labels(tree, tables, data, where)
    if tables and data.layout == "auto":
        _refuse_other_labels(tree, tables, data, layout, where)
    return layout


def _refuse_other_labels(tree: Tree, tables: list[str], data: Data, layout: Layout, where: str) -> None:
    """Refuse folders beside a table that gives their images other labels than the folders' names."""
    try:
        labelled = read_labels(tree, tables, data, where)
    except ValueError:
        # none of the tables gives labels to these images
        return
    by_folder = {n: name for classes in layout.parts.values() for name, images in classes.items() for n in images}
    by_table = {n: name for classes in labelled.parts.values() for name, images in classes.items() for n in images}
    both = {(by_folder[n], by_table[n]) for n in by_folder if n in by_table}
    one_to_one = len(both) == len({folder for folder, _ in both}) == len({label for _, label in both})
    covered = sum(n in by_table for n in by_folder)
    # a width, a time
    numbers = labelled.column.lower() not in LABELS and all(label.isdecimal() for _, label in both)
    if 2 * covered >= len(by_folder) and not one_to_one and not numbers:
        raise ValueError(
            f"data.path: {where} can be read in two ways: the folders as classes (set data.layout=classes), "
            f"or the labels in column {labelled.column} of {few(labelled.tables)} (set "
            f"data.label={labelled.column})"
        )


def _load(tree: Tree, layout: Layout) -> Images:
    names = sorted({name for classes in layout.parts.values() for name in classes})
    if layout.tables and all(name.isdecimal() for name in names):
        names.sort(key=int)
    said = [shown(name) for name in names]
    if doubled := [name for name, count in Counter(said).items() if count > 1]:
        raise ValueError(
            f"data.path: {shown(str(tree.root))} has several class folders that are shown as {few(doubled)}"
        )
    index = {name: i for i, name in enumerate(names)}
    parts = {}
    for split, classes in layout.parts.items():
        files: list[tuple[str, int | None]] = [
            (image, index[name]) for name, found in sorted(classes.items()) for image in found
        ]
        files += [(image, None) for image in layout.unlabelled.get(split, ())]
        if files:
            parts[split] = _part(files, tree)
    told = layout.said
    if tree.unnamed:
        told += f"; {counted(tree.unnamed, 'file is an image', 'files are images')} by content, not by suffix"
    if tree.absolute:
        members = counted(
            tree.absolute, "member of the zip has an absolute path", "members of the zip have absolute paths"
        )
        told += f"; {members}, read as below the zip's root"
    return Images(
        tuple(said), parts, told, (*layout.left, *_beside(tree, layout)), tuple(layout.lost), tuple(layout.merged)
    )


def _part(files: list[tuple[str, int | None]], tree: Tree) -> Part:
    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        return ((tree.read(files[row][0]), shown(files[row][0])) for row in rows)

    return Part([label for _, label in files], images)


def _beside(tree: Tree, layout: Layout) -> list[Left]:
    """What of a tree is no image, or is not read."""
    left = []
    if files := [name for name in tree.texts + tree.others if name not in layout.tables]:
        left.append(
            Left(
                f"{counted(len(files), 'file that is no image', 'files that are no images')}, by content: {few(files)}"
            )
        )
    if tree.dead:
        left.append(
            Left(f"{counted(len(tree.dead), 'link')} to nothing, or no files: {few(tree.dead)}", len(tree.dead))
        )
    if tree.links:
        left.append(Left(f"{counted(len(tree.links), 'link')} to folders that are read already: {few(tree.links)}"))
    for why, count in sorted(tree.skipped.items()):
        left.append(
            Left(f"{counted(count, 'file or folder', 'files or folders')} {why}", harmless=why in (JUNK, HIDDEN))
        )
    if unused := hidden_images(tree.hidden):
        left.append(Left(unused, sum(tree.hidden.values())))
    return left
