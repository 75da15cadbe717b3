"""Images in folders or in a zip, with a folder per class, inside split folders or not, or with a table of labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from tasks.datasets._folders import folders_of
from tasks.datasets._hidden import hidden_images
from tasks.datasets._labels import LABELS, find_tables, is_table, read_labels
from tasks.datasets._layout import Layout, NoClasses, read_layout
from tasks.datasets._source import Images, Part, Source, Unused, fingerprint, location
from tasks.datasets._tree import HIDDEN, JUNK, Tree, read_tree
from tasks.datasets._words import counted, few, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.datasets._decode import Encoded
    from tasks.records import Data

READS = ("path", "layout", "image", "label")
NEEDS = ("path",)


def open(data: Data) -> Source:
    """Open data.path: a folder, a zip of one, or a table (.csv, .tsv, .jsonl) of labels beside its images.

    Classes are the sub-folders that hold images, sorted by name, whether they are in split folders (train, val, test
    and the like) or not. Files in deeper folders belong to the class above. If there are no class folders, a table
    gives each image's label. Rows are sorted by class and path. Whether a file is an image is told from its content.
    A folder that links make reachable twice is read once.

    Raises
    ------
    ValueError
        When the images are needed: if nothing is there, there are fewer than two classes, or the layout can be read in
        two ways.
    """
    path = location(data)
    table = path if is_table(path) else None
    root = path.parent if table else path

    @cache
    def contents() -> tuple[Tree, Layout]:
        """Return the files and their layout, read once for the images and the fingerprint."""
        tree = read_tree(root)
        return tree, _read(tree, data, table.name if table else None)

    return Source(lambda: _load(*contents()), lambda: _fingerprint(*contents()))


def _fingerprint(tree: Tree, layout: Layout) -> str:
    """Return a SHA-256 of the files that are read, and of the notes on those that are not."""
    notes = (layout.description, layout.unused, layout.lost_classes, _unused_files(tree, layout))
    notes_sha256 = hashlib.sha256(repr(notes).encode()).hexdigest()
    if tree.archive:
        content_sha256 = fingerprint([tree.root], tree.root.parent)
    else:
        unlabelled = [name for images in layout.unlabelled.values() for name in images]
        files = [tree.root / name for name in (*_class_of_image(layout), *unlabelled, *layout.tables)]
        content_sha256 = fingerprint(files, tree.root)
    return hashlib.sha256((content_sha256 + notes_sha256).encode()).hexdigest()


def _class_of_image(layout: Layout) -> dict[str, str]:
    """Return the class of each image that has one."""
    class_of = {}
    for classes in layout.parts.values():
        for name, images in classes.items():
            class_of.update(dict.fromkeys(images, name))
    return class_of


def _read(tree: Tree, data: Data, table: str | None) -> Layout:
    """Return the layout of a tree.

    A table of labels decides if the user names the table or one of its columns, or if there are no class folders.
    """
    where = shown(str(tree.root))
    if data.unlabelled:
        return _without_labels(tree, where)
    tables = [table] if table else find_tables(tree)
    if table or data.label or data.image:
        return read_labels(tree, tables, data, where)
    try:
        layout = read_layout(folders_of(tree), data.layout, where)
    except ValueError as error:
        if not isinstance(error, NoClasses) or not tables or data.layout == "classes":
            hidden = hidden_images(tree.hidden)
            raise ValueError(f"{error}; not used are {hidden}" if hidden else str(error)) from None
        return read_labels(tree, tables, data, where)
    if tables and data.layout == "auto":
        try:
            layout_by_tables = read_labels(tree, tables, data, where)
        except ValueError:
            # None of the tables gives labels to these images.
            return layout
        _refuse_other_labels(layout, layout_by_tables, where)
    return layout


def _without_labels(tree: Tree, where: str) -> Layout:
    """Return the layout in which no image has a label, whatever folder it is in."""
    if not tree.images:
        raise ValueError(f"data.path: {where} has no images")
    count = counted(len(tree.images), "image")
    return Layout({"train": {}}, f"{count} without labels", unlabelled={"train": list(tree.images)})


def _refuse_other_labels(by_folders: Layout, by_tables: Layout, where: str) -> None:
    """Refuse folders whose images have labels in a table that are not those of the folders by other names."""
    folder_of = _class_of_image(by_folders)
    label_of = _class_of_image(by_tables)
    pairs = {(folder_of[image], label_of[image]) for image in folder_of if image in label_of}
    one_to_one = len(pairs) == len({folder for folder, _ in pairs}) == len({label for _, label in pairs})
    in_both = sum(image in label_of for image in folder_of)
    # Numbers in a column that is not called label are rather a width or a time.
    is_measurement = by_tables.column.lower() not in LABELS and all(label.isdecimal() for _, label in pairs)
    if 2 * in_both >= len(folder_of) and not one_to_one and not is_measurement:
        raise ValueError(
            f"data.path: {where} can be read in two ways: the folders as classes (set data.layout=classes), "
            f"or the labels in column {by_tables.column} of {few(by_tables.tables)} (set "
            f"data.label={by_tables.column})"
        )


def _load(tree: Tree, layout: Layout) -> Images:
    """Return the images of a tree by its layout."""
    names = sorted({name for classes in layout.parts.values() for name in classes})
    if layout.tables and all(name.isdecimal() for name in names):
        names.sort(key=int)
    class_names = tuple(shown(name) for name in names)
    doubled = [name for name, count in Counter(class_names).items() if count > 1]
    if doubled:
        raise ValueError(
            f"data.path: {shown(str(tree.root))} has several class folders that are shown as {few(doubled)}"
        )
    index = {name: i for i, name in enumerate(names)}
    parts = {}
    for split, classes in layout.parts.items():
        files: list[tuple[str, int | None]] = []
        for name, images in sorted(classes.items()):
            files += [(image, index[name]) for image in images]
        files += [(image, None) for image in layout.unlabelled.get(split, ())]
        if files:
            parts[split] = _part(files, tree)
    return Images(
        class_names,
        parts,
        _description(tree, layout),
        unused=(*layout.unused, *_unused_files(tree, layout)),
        lost_classes=tuple(layout.lost_classes),
        merged_classes=tuple(layout.merged_classes),
    )


def _description(tree: Tree, layout: Layout) -> str:
    """Return in words how the tree was read."""
    description = layout.description
    if tree.unnamed:
        files = counted(tree.unnamed, "file is an image", "files are images")
        description += f"; {files} by content, not by suffix"
    if tree.absolute:
        members = counted(
            tree.absolute, "member of the zip has an absolute path", "members of the zip have absolute paths"
        )
        description += f"; {members}, read as below the zip's root"
    return description


def _part(files: list[tuple[str, int | None]], tree: Tree) -> Part:
    """Return image files with their labels as a part of a source."""

    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        return ((tree.read(files[row][0]), shown(files[row][0])) for row in rows)

    return Part([label for _, label in files], images)


def _unused_files(tree: Tree, layout: Layout) -> list[Unused]:
    """Return notes of the files of a tree that are no images, and of those that are not read."""
    unused = []
    files = [name for name in tree.texts + tree.others if name not in layout.tables]
    if files:
        count = counted(len(files), "file that is no image", "files that are no images")
        unused.append(Unused(f"{count}, by content: {few(files)}"))
    if tree.dead:
        count = counted(len(tree.dead), "link")
        unused.append(Unused(f"{count} to nothing, or no files: {few(tree.dead)}", len(tree.dead)))
    if tree.links:
        unused.append(Unused(f"{counted(len(tree.links), 'link')} to folders that are read already: {few(tree.links)}"))
    for reason, number in sorted(tree.skipped.items()):
        count = counted(number, "file or folder", "files or folders")
        unused.append(Unused(f"{count} {reason}", harmless=reason in (JUNK, HIDDEN)))
    hidden = hidden_images(tree.hidden)
    if hidden:
        unused.append(Unused(hidden, sum(tree.hidden.values())))
    return unused
