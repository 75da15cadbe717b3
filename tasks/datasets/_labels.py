"""Tables of labels beside images: the hub's metadata.csv and metadata.jsonl, Kaggle's train.csv, one's own."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tasks.datasets import Left
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import Bad
from tasks.datasets._filekinds import BYTE_ORDER_MARKS
from tasks.datasets._layout import Layout
from tasks.datasets._words import TABLES, counted, few, settle, shown, split_of

if TYPE_CHECKING:
    from tasks.datasets._tree import Tree
    from tasks.records import Data

    Rows = list[dict[str, str]]

LABELS = ("label", "labels", "class", "class_name", "classname", "category", "target")
"""Columns that are taken for the label by their name: the first of these, or the only one of the others."""
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
MOST = 20
"""Tables that are looked into, at most."""
LOOKED_AT = 500
"""Rows by which the column is found that names the images."""


@dataclass
class Table:
    """A table that names images and their labels."""

    name: str
    rows: Rows
    image: str
    """Column."""
    label: str | None
    """Column; None: the table has no labels."""


class Found:
    """Images of a tree by what a table may call them: path, file name, or file name without its suffix."""

    def __init__(self, images: list[str]) -> None:
        self.paths = set(images)
        self.names: dict[str, list[str]] = {}
        for image in images:
            name = image.rpartition("/")[2]
            for key in {name, name.rpartition(".")[0]} - {""}:
                self.names.setdefault(key, []).append(image)

    def find(self, value: str, table: str) -> list[str]:
        """Images that a table's value may mean: one, none, or several of one name in different folders."""
        value = value.strip().replace("\\", "/").removeprefix("./")
        folder = table.rpartition("/")[0]
        for path in (f"{folder}/{value}" if folder else value, value):
            if path in self.paths:
                return [path]
        found = self.names.get(value.rpartition("/")[2], [])
        if len(found) > 1 and (word := split_of(PurePosixPath(table).stem)):
            inside = [f for f in found if (of := split_of(f.split("/")[0])) and of[0] == word[0]]
            found = inside or found
        return found


def is_table(path: str | Path) -> bool:
    return str(path).lower().endswith(TABLES)


def find_tables(tree: Tree) -> list[str]:
    """Tables in the root and in its folders, except sample submissions, whose labels are made up."""
    found = [n for n in tree.texts if is_table(n) and n.count("/") <= 1 and "submission" not in n.lower()]
    return found if len(found) <= MOST else [n for n in found if "metadata" in n.lower()][:MOST]


def read_labels(tree: Tree, tables: list[str], data: Data, where: str) -> Layout:
    """Labels of the images of a tree, by its tables.

    Raises
    ------
    ValueError
        No table names these images, the label column cannot be told, or an image has two labels.
    """
    images = Found(tree.images)
    read = [t for name in tables if (t := _open(tree, name, images, data))]
    if not read:
        raise ValueError(
            f"data.path: {where} has no table (.csv, .tsv or .jsonl) that names its images"
            + (f", but {few(tables)}" if tables else "")
            + (f"; data.label={data.label} asks for one" if data.label else "")
        )
    if not any(table.label for table in read):
        columns = ", ".join(dict.fromkeys(c for table in read for c in table.rows[0] if c != table.image))
        raise ValueError(
            f"data.label: no column of {few([t.name for t in read])} is called label, or the only one "
            "that can be it, so that it must be named; the columns are "
            f"{columns or 'none besides the images'}"
        )
    label_of, split_said, missing = _join(read, images)
    return _laid_out(tree, [table for table in read if table.label], label_of, split_said, missing)


def _open(tree: Tree, name: str, images: Found, data: Data) -> Table | None:
    """The table of this name, if it names images of the tree."""
    rows = _rows(tree, name)
    columns = list(rows[0]) if rows else []
    if data.image and data.image not in columns:
        return None
    matches = {
        c: sum(bool(images.find(row.get(c) or "", name)) for row in rows[:LOOKED_AT])
        for c in ([data.image] if data.image else columns)
    }
    image = max(matches, key=lambda column: matches[column], default=None)
    if image is None or not matches[image]:
        return None
    return Table(name, rows, image, _label(rows, columns, image, data.label))


def _label(rows: Rows, columns: list[str], image: str, asked: str | None) -> str | None:
    """The column of labels: the one asked for, the one so called, or the only one that can be it."""
    if asked:
        return asked if asked in columns else None
    named = [c for c in columns if c.lower() == "label"] or [c for c in columns if c.lower() in LABELS and c != image]
    if named:
        return named[0] if len(named) == 1 else None
    others = [c for c in columns if c not in ("", image) and c.lower() not in SPLIT_COLUMNS]
    return others[0] if len(others) == 1 and len({row.get(others[0]) for row in rows}) < max(len(rows), 2) else None


def _rows(tree: Tree, name: str) -> Rows:
    content = tree.read(name)
    if isinstance(content, Path):
        content = content.read_bytes()
    assert isinstance(content, (bytes, Bad))
    try:
        if isinstance(content, Bad):
            raise ValueError(content.args[1])
        # Spreadsheets write "Unicode text" in UTF-16, with a byte-order mark.
        text = content.decode("utf-16" if content.startswith(BYTE_ORDER_MARKS) else "utf-8-sig")
        if name.lower().endswith(".jsonl"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line is no JSON object")
            return [{str(k): "" if v is None else str(v) for k, v in row.items()} for row in rows]
        head = text.partition("\n")[0]
        delimiter = max(",;\t", key=head.count)
        return [
            {k: v or "" for k, v in row.items() if isinstance(k, str)}
            for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)
        ]
    except (ValueError, csv.Error) as error:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"data.path: the table {shown(name)} cannot be read: {error}") from error


def _join(tables: list[Table], images: Found) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """(Image -> its label, "" where the table leaves it empty; image -> split that a table says; values of no
    image)."""
    label_of: dict[str, str] = {}
    split_said: dict[str, str] = {}
    missing: list[str] = []
    for table in tables:
        if not table.label:
            continue
        column = next((c for c in table.rows[0] if c.lower() in SPLIT_COLUMNS and c != table.label), None)
        for row in table.rows:
            found = images.find(row.get(table.image) or "", table.name)
            if not found:
                missing.append(row.get(table.image) or "(empty)")
                continue
            if len(found) > 1:
                raise ValueError(
                    f"data.path: {shown(table.name)} names {shown(row[table.image])!r}, which may be "
                    f"{few(found)}; give paths from the table's folder"
                )
            label = (row.get(table.label) or "").strip()
            if label_of.setdefault(found[0], label) != label:
                raise ValueError(
                    f"data.path: {shown(found[0])} has two labels, {label_of[found[0]]} and {label}; one per "
                    "image is needed"
                )
            word = split_of(row.get(column) or "") if column else split_of(PurePosixPath(table.name).stem)
            if word:
                split_said[found[0]] = word[0]
    return label_of, split_said, missing


def _laid_out(
    tree: Tree, tables: list[Table], label_of: dict[str, str], split_said: dict[str, str], missing: list[str]
) -> Layout:
    """The layout, with what no table names and what names no image."""
    words = {image: split_said.get(image) or _of_folder(image) for image in label_of}
    means = settle({word for word in words.values() if word})
    named = [image for image in label_of if words[image]]
    layout = Layout({}, "", tables=[table.name for table in tables], column=tables[0].label or "")
    for image in sorted(label_of):
        split = means.get(words[image], "train")
        if label_of[image]:
            layout.parts.setdefault(split, {}).setdefault(label_of[image], []).append(image)
        else:
            layout.unlabelled.setdefault(split, []).append(image)
    rest = Counter(image.split("/")[0] if "/" in image else "" for image in tree.images if image not in label_of)
    for folder, count in sorted(rest.items()):
        word = split_of(folder)
        lost = 0 if word and word[0] != "train" else count
        layout.left.append(
            Left(
                f"{counted(count, 'image')} in {shown(folder) or 'data.path'} "
                f"{'has' if count == 1 else 'have'} no label in any table",
                lost,
            )
        )
    if missing:
        verb = "names" if len(missing) == 1 else "name"
        layout.left.append(
            Left(
                f"{counted(len(missing), 'row')} of {few([t.name for t in tables])} that {verb} no image: "
                f"{few(missing)}",
                len(missing),
            )
        )
    which = "; ".join(f"{shown(t.name)} (images in column {t.image}, labels in column {t.label})" for t in tables)
    how = (
        "there are no splits"
        if not named
        else f"the splits are {', '.join(s for s in SPLITS if s in layout.parts)}, as the table or the folders say"
    )
    layout.said = f"the labels are those of {which}; {how}"
    return layout


def _of_folder(image: str) -> str:
    """Split word of the first folder that says one."""
    return next((word[0] for step in image.split("/")[:-1] if (word := split_of(step)) and not word[1]), "")
