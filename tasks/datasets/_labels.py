"""Read labels from tables beside images, such as the hub's metadata.csv and metadata.jsonl, and Kaggle's train.csv."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import Bad
from tasks.datasets._filekinds import BYTE_ORDER_MARKS
from tasks.datasets._layout import Layout
from tasks.datasets._source import Unused
from tasks.datasets._words import TABLES, counted, few, plain_split_word, settle, shown, split_word

if TYPE_CHECKING:
    from tasks.datasets._tree import Tree
    from tasks.records import Data

    Rows = list[dict[str, str]]

LABELS = ("label", "labels", "class", "class_name", "classname", "category", "target")
"""A column called label is taken for the label, or else the only column with one of these names."""
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
"""Names of columns that say the split of each image."""
MOST = 20
"""At most this many tables are looked into."""
SEARCHED_ROWS = 500
"""This many rows of a table are compared with the images, to find the column that names them."""


@dataclass
class Table:
    """A table that names images."""

    name: str
    rows: Rows
    image: str
    """Name of the column that names the images."""
    label: str | None
    """Name of the column of labels, or None if the table has no labels."""


class ImageIndex:
    """The images of a tree by the names that a table may give them: path, file name, or file name without suffix."""

    def __init__(self, images: list[str]) -> None:
        self.paths = set(images)
        self.by_name: dict[str, list[str]] = {}
        for image in images:
            name = image.rpartition("/")[2]
            for key in {name, name.rpartition(".")[0]} - {""}:
                self.by_name.setdefault(key, []).append(image)

    def find(self, value: str, table: str) -> list[str]:
        """Return the images that a value of a table may mean: none, one, or several of one name in different folders.

        Of several, those in the folder of the split that the table's name says are preferred.
        """
        value = value.strip().replace("\\", "/").removeprefix("./")
        folder = table.rpartition("/")[0]
        for path in (f"{folder}/{value}" if folder else value, value):
            if path in self.paths:
                return [path]
        images = self.by_name.get(value.rpartition("/")[2], [])
        table_split = split_word(PurePosixPath(table).stem)
        if len(images) > 1 and table_split:
            images = [image for image in images if split_word(image.split("/")[0]) == table_split] or images
        return images


@dataclass
class Labels:
    """The labels and splits that tables give to images."""

    label_of: dict[str, str]
    """For each image that a table names, its label; an empty text if the table leaves it empty."""
    split_of: dict[str, str]
    """For each image whose split a table says, the word for that split."""
    missing: list[str]
    """The values in the tables that name no image."""


def is_table(path: str | Path) -> bool:
    """Return whether a file is a table, by its suffix."""
    return str(path).lower().endswith(TABLES)


def find_tables(tree: Tree) -> list[str]:
    """Return the tables in the root and in its folders, except sample submissions, whose labels are made up.

    If there are too many, only those called metadata are returned.
    """
    tables = [name for name in tree.texts if is_table(name) and name.count("/") <= 1]
    tables = [name for name in tables if "submission" not in name.lower()]
    if len(tables) <= MOST:
        return tables
    return [name for name in tables if "metadata" in name.lower()][:MOST]


def read_labels(tree: Tree, tables: list[str], data: Data, where: str) -> Layout:
    """Lay out the images of a tree by the labels in its tables.

    Parameters
    ----------
    tables
        Names of the tables in the tree.
    where
        What to call the tree in messages.

    Raises
    ------
    ValueError
        If no table names these images, nothing decides which column holds the labels, or an image has two labels.
    """
    images = ImageIndex(tree.images)
    opened = [_open(tree, name, images, data) for name in tables]
    naming = [table for table in opened if table is not None]
    if not naming:
        raise ValueError(
            f"data.path: {where} has no table (.csv, .tsv or .jsonl) that names its images"
            + (f", but {few(tables)}" if tables else "")
            + (f"; data.label={data.label} asks for one" if data.label else "")
        )
    labelled = [table for table in naming if table.label]
    if not labelled:
        columns = ", ".join(dict.fromkeys(c for table in naming for c in table.rows[0] if c != table.image))
        raise ValueError(
            f"data.label: no column of {few([table.name for table in naming])} is called label, or is the only one "
            "that can be it, so that it must be named; the columns are "
            f"{columns or 'none besides the images'}"
        )
    return _layout(tree, labelled, _join(labelled, images))


def _open(tree: Tree, name: str, images: ImageIndex, data: Data) -> Table | None:
    """Return the table of this name, or None if it names no images of the tree."""
    rows = _rows(tree, name)
    columns = list(rows[0]) if rows else []
    if data.image and data.image not in columns:
        return None
    named_images = {
        column: sum(bool(images.find(row.get(column) or "", name)) for row in rows[:SEARCHED_ROWS])
        for column in ([data.image] if data.image else columns)
    }
    image = max(named_images, key=lambda column: named_images[column], default=None)
    if image is None or not named_images[image]:
        return None
    return Table(name, rows, image, _label_column(rows, columns, image=image, chosen=data.label))


def _label_column(rows: Rows, columns: list[str], *, image: str, chosen: str | None) -> str | None:
    """Return the column of labels: the one that the user chose, one by its name, or the only one that can be it."""
    if chosen:
        return chosen if chosen in columns else None
    named = [column for column in columns if column.lower() == "label"]
    named = named or [column for column in columns if column.lower() in LABELS and column != image]
    if named:
        return named[0] if len(named) == 1 else None
    others = [column for column in columns if column not in ("", image) and column.lower() not in SPLIT_COLUMNS]
    if len(others) != 1:
        return None
    # A column whose values are all different, like a number per image, holds no classes.
    values = {row.get(others[0]) for row in rows}
    return others[0] if len(values) < max(len(rows), 2) else None


def _rows(tree: Tree, name: str) -> Rows:
    """Return the rows of a table, each as a dict of texts by column."""
    content = tree.read(name)
    if isinstance(content, Path):
        content = content.read_bytes()
    assert isinstance(content, (bytes, Bad))
    try:
        if isinstance(content, Bad):
            raise ValueError(content.args[1])
        # Spreadsheets write "Unicode text" in UTF-16, with a byte-order mark.
        text = content.decode("utf-16" if content.startswith(BYTE_ORDER_MARKS) else "utf-8-sig")
        return _json_rows(text) if name.lower().endswith(".jsonl") else _csv_rows(text)
    except (ValueError, csv.Error) as error:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors.
        raise ValueError(f"data.path: the table {shown(name)} cannot be read: {error}") from error


def _json_rows(text: str) -> Rows:
    """Return the rows of a text that has one JSON object per line."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return [{str(column): "" if value is None else str(value) for column, value in row.items()} for row in rows]


def _csv_rows(text: str) -> Rows:
    """Return the rows of a text of columns that commas, semicolons or tabs separate, whichever the first line has."""
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    # The values of a row that is longer than the first line stand under the key None.
    return [{column: value or "" for column, value in row.items() if isinstance(column, str)} for row in rows]


def _join(tables: list[Table], images: ImageIndex) -> Labels:
    """Return the labels and splits that the tables give to the images."""
    labels = Labels({}, {}, [])
    for table in tables:
        assert table.label
        split_column = next((c for c in table.rows[0] if c.lower() in SPLIT_COLUMNS and c != table.label), None)
        for row in table.rows:
            value = row.get(table.image) or ""
            matches = images.find(value, table.name)
            if not matches:
                labels.missing.append(value or "(empty)")
                continue
            if len(matches) > 1:
                raise ValueError(
                    f"data.path: {shown(table.name)} names {shown(value)!r}, which may be "
                    f"{few(matches)}; give paths from the table's folder"
                )
            image = matches[0]
            label = (row.get(table.label) or "").strip()
            if labels.label_of.setdefault(image, label) != label:
                raise ValueError(
                    f"data.path: {shown(image)} has two labels, {labels.label_of[image]} and {label}; one per "
                    "image is needed"
                )
            word = split_word((row.get(split_column) or "") if split_column else PurePosixPath(table.name).stem)
            if word:
                labels.split_of[image] = word
    return labels


def _layout(tree: Tree, tables: list[Table], labels: Labels) -> Layout:
    """Return the layout that the tables give. It notes the images without a label, and the rows without an image."""
    words = {image: labels.split_of.get(image) or _split_of_folder(image) for image in labels.label_of}
    meanings = settle({word for word in words.values() if word})
    layout = Layout({}, "", tables=[table.name for table in tables], column=tables[0].label or "")
    for image, label in sorted(labels.label_of.items()):
        split = meanings.get(words[image], "train")
        if label:
            layout.parts.setdefault(split, {}).setdefault(label, []).append(image)
        else:
            layout.unlabelled.setdefault(split, []).append(image)
    layout.unused += _unlabelled(tree, labels)
    if labels.missing:
        verb = "names" if len(labels.missing) == 1 else "name"
        rows = counted(len(labels.missing), "row")
        names = few([table.name for table in tables])
        layout.unused.append(
            Unused(f"{rows} of {names} that {verb} no image: {few(labels.missing)}", len(labels.missing))
        )
    columns = "; ".join(
        f"{shown(table.name)} (images in column {table.image}, labels in column {table.label})" for table in tables
    )
    splits = "there are no splits"
    if any(words.values()):
        present = ", ".join(split for split in SPLITS if split in layout.parts)
        splits = f"the splits are {present}, as the table or the folders say"
    layout.description = f"the labels are those of {columns}; {splits}"
    return layout


def _unlabelled(tree: Tree, labels: Labels) -> list[Unused]:
    """Return, per folder, how many images no table names. In a folder of test images, that is no loss."""
    unnamed = [image for image in tree.images if image not in labels.label_of]
    counts = Counter(image.split("/")[0] if "/" in image else "" for image in unnamed)
    unused = []
    for folder, count in sorted(counts.items()):
        is_loss = split_word(folder) in (None, "train")
        have = "has" if count == 1 else "have"
        place = shown(folder) or "data.path"
        description = f"{counted(count, 'image')} in {place} {have} no label in any table"
        unused.append(Unused(description, count if is_loss else 0))
    return unused


def _split_of_folder(image: str) -> str:
    """Return the word for the split after which the first of an image's folders is named, or an empty text."""
    words = (plain_split_word(folder) for folder in image.split("/")[:-1])
    return next((word for word in words if word), "")
