"""Columns of a Parquet file: which holds the images, which the labels, of whatever type the hub's data sets have."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.datasets import Left
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import format_of
from tasks.datasets._filekinds import AGAIN, kind
from tasks.datasets._words import few, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.records import Data

    Value = int | str | bool | float | None

NAMES = ("label", "labels", "class", "category", "target")
"""Columns that are taken for the label by their name where nothing else tells."""
LOOKED_AT = 64
"""Rows of the first file in which an image is looked for."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read."""

    image: str
    label: str
    kind: str
    """What labels are: whole numbers, text or true and false."""
    names: tuple[str, ...] | None
    """Class names, where the schema's metadata has them."""
    others: tuple[str, ...] = ()
    """Columns that could have been the label."""

    @property
    def left(self) -> tuple[Left, ...]:
        return (Left(f"other columns of labels: {', '.join(self.others)}"),) if self.others else ()

    def said(self, files: Mapping[str, Sequence[Path]]) -> str:
        """How the files are read, in words."""
        names_of = {part: few([path.name for path in paths], 3) for part, paths in files.items()}
        splits = "splits " + ", ".join(f"{part} ({names_of[part]})" for part in SPLITS if part in files)
        if len(files) == 1:
            splits = f"no splits ({', '.join(names_of.values())})"
        names = "class names of the metadata" if self.names else "the labels are the class names"
        return f"images in column {self.image}, labels in column {self.label} ({self.kind}; {names}); {splits}"


def open_file(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    what = kind(path)
    known = f"it is {what}" if what not in (None, "Parquet") else " ".join(str(error).split())[:200]
    if what == "Parquet":
        known = f"it is cut off or damaged ({known.rstrip('.')}): {AGAIN}"
    return ValueError(f"data.path: {path} cannot be read as Parquet: {known}")


def find_columns(file: pq.ParquetFile, path: Path, data: Data) -> Columns:
    """The columns of images and labels: as the settings say, or the only ones that can be it.

    Raises
    ------
    ValueError
        If there is none, or there are several and nothing tells which.
    """
    schema = file.schema_arrow
    for key in ("image", "label"):
        if (asked := getattr(data, key)) is not None and asked not in schema.names:
            raise ValueError(f"data.{key}: {path} has no column {asked!r}; its columns are {', '.join(schema.names)}")
    image = _image(file, path, data.image)
    described = _features(schema)
    label, others = _label(schema, path, data.label, image, described)
    feature = described.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    kind = _kind(schema.field(label).type)
    if kind is None:
        raise ValueError(
            f"data.label: column {label} of {path} is of type {schema.field(label).type}; a label is a whole "
            "number, text, or true or false"
        )
    return Columns(image, label, kind, tuple(map(str, names)) if names and kind == "whole numbers" else None, others)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the hub's library has written of each column."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _kind(kind: pa.DataType) -> str | None:
    """What labels of an Arrow type are, in words; None: no labels."""
    import pyarrow as pa

    kind = _plain(kind)
    if pa.types.is_boolean(kind):
        return "true and false"
    # pandas makes floats of integers with gaps
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "whole numbers"
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "text" if any(test(kind) for test in is_text) else None


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = _plain(kind)
    if pa.types.is_struct(kind):
        return any(child.name == "bytes" and _holds_bytes(child.type) for child in kind)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _image(file: pq.ParquetFile, path: Path, asked: str | None) -> str:
    """The column of images: the one asked for; the only one that can hold files; of several, the only one that does."""
    schema = file.schema_arrow
    if asked is not None:
        if not _holds_bytes(schema.field(asked).type):
            raise ValueError(
                f"data.image: column {asked} of {path} is of type {schema.field(asked).type}; images are bytes, "
                "or a struct with a field `bytes`"
            )
        return asked
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if len(found) > 1:
        found = [name for name in found if _is_image(file, path, name)] or found
    if len(found) == 1:
        return found[0]
    hint = (
        f"which of {', '.join(found)} it is, data.image decides"
        if found
        else "the columns are " + ", ".join(f"{field.name} ({field.type})" for field in schema)
    )
    raise ValueError(f"data.path: {path} needs one image column, of bytes or of structs with a field `bytes`; {hint}")


def _is_image(file: pq.ParquetFile, path: Path, name: str) -> bool:
    """Whether one of the first values that are given is an image file."""
    import pyarrow as pa

    try:
        batch = next(file.iter_batches(LOOKED_AT, columns=[name]), None)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    heads = (content for content, _ in images_of(batch.column(0))) if batch is not None else ()
    return any(head and format_of(head[:512]) for head in heads)


def _label(
    schema: pa.Schema, path: Path, asked: str | None, image: str, described: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """(Column of labels, other columns that the metadata calls labels)."""
    able = [f.name for f in schema if f.name != image and _kind(f.type) and not f.name.startswith("__index_level_")]
    named = [name for name in able if isinstance(described.get(name), dict) and "names" in described[name]]
    if asked is not None:
        return asked, tuple(name for name in named if name != asked)
    if "label" in able:
        return "label", tuple(name for name in named if name != "label")
    for group in (named, [name for name in able if name.lower() in NAMES], able):
        if len(group) == 1:
            return group[0], ()
        if group:
            raise ValueError(
                f"data.path: {path} has {len(group)} columns that may be the label, {', '.join(group)}; "
                f"data.label decides, e.g. data.label={group[0]}"
            )
    raise ValueError(
        f"data.path: {path} has no column that can be the label, a whole number, text, or true or false; its "
        f"columns are {', '.join(f'{field.name} ({field.type})' for field in schema)}"
    )


def check_same(columns: Columns, first: Path, schema: pa.Schema, path: Path) -> bool:
    """Whether a file has labels; refused unless its columns are those of the first file."""
    if columns.image not in schema.names or not _holds_bytes(schema.field(columns.image).type):
        raise ValueError(
            f"data.path: {path} has no image column {columns.image} as {first} has; its columns are "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    if columns.label not in schema.names:
        return False
    kind = _kind(schema.field(columns.label).type)
    if kind != columns.kind:
        raise ValueError(
            f"data.path: labels in column {columns.label} are {columns.kind} in {first} and of type "
            f"{schema.field(columns.label).type} in {path}"
        )
    feature = _features(schema).get(columns.label)
    names = feature.get("names") if isinstance(feature, dict) else None
    if (tuple(map(str, names)) if names and kind == "whole numbers" else None) != columns.names:
        raise ValueError(f"data.path: {path} and {first} do not agree on the class names")
    return True


def read_labels(paths: Sequence[Path], columns: Columns) -> list[Value]:
    """Labels of several files as they are stored; an empty text is no label."""
    import pyarrow as pa

    found: list[Value] = []
    for path in paths:
        try:
            column = open_file(path).read(columns=[columns.label]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        values = column.to_pylist()
        if columns.kind == "text":
            values = [value or None for value in values]
        elif pa.types.is_floating(_plain(column.type)):
            values = [_whole(value, path, columns.label) for value in values]
        found += values
    return found


def _whole(value: float | None, path: Path, column: str) -> int | None:
    if value is None or math.isnan(value):
        return None
    if not value.is_integer():
        raise ValueError(f"data.label: column {column} of {path} holds {value}, which is no class")
    return int(value)


def name_classes(
    columns: Columns, values: Mapping[str, list[Value]], where: str
) -> tuple[tuple[str, ...], Callable[[Value], int | None]]:
    """(Class names, stored label -> class index)."""
    if columns.names is not None:
        return columns.names, lambda value: value if value is None else int(value)
    if columns.kind == "true and false":
        return ("False", "True"), lambda value: None if value is None else int(value)
    if columns.kind == "text":
        found = sorted({value for part in values.values() for value in part if isinstance(value, str)})
        index = {name: i for i, name in enumerate(found)}
        return tuple(map(shown, found)), lambda value: None if value is None else index[str(value)]
    top = max((int(value) for part in values.values() for value in part if value is not None), default=-1)
    rows = sum(map(len, values.values()))
    if top >= rows:
        raise ValueError(f"data.path: {where} has no class names, and labels up to {top} in {rows} rows")
    return tuple(map(str, range(top + 1))), lambda value: value if value is None else int(value)


def images_of(column: pa.Array) -> list[tuple[bytes | None, str]]:
    """(Bytes, path as the data set has it) of each image of a column; a null struct has null fields."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_struct(column.type):
        return [(content, "") for content in column.to_pylist()]
    fields = dict(zip((child.name for child in column.type), column.flatten(), strict=True))
    paths = fields["path"].to_pylist() if "path" in fields else [None] * len(column)
    return [(content, str(path or "")) for content, path in zip(fields["bytes"].to_pylist(), paths, strict=True)]
