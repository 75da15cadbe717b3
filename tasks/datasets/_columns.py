"""Find the columns of images and labels in Parquet files, and read the labels, of all types that hub data sets use."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models._messages import brief
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import HEAD, format_of
from tasks.datasets._filekinds import AGAIN, kind
from tasks.datasets._source import Unused
from tasks.datasets._words import few, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.records import Data

    Value = int | str | bool | float | None

LABEL_NAMES = ("label", "labels", "class", "category", "target")
"""A column of one of these names is taken for the label if nothing else decides."""
SEARCHED_ROWS = 64
"""This many rows of the first file are searched for an image, to decide whether a column holds images."""
WHOLE_NUMBERS = "whole numbers"
TEXT = "text"
TRUE_AND_FALSE = "true and false"


@dataclass(frozen=True)
class Columns:
    """The columns that are read."""

    image: str
    """Name of the column of images."""
    label: str
    """Name of the column of labels."""
    kind: str
    """What the labels are: `WHOLE_NUMBERS`, `TEXT` or `TRUE_AND_FALSE`."""
    names: tuple[str, ...] | None
    """Class names, if the schema's metadata has them."""
    others: tuple[str, ...] = ()
    """Names of further columns that could have been the label."""

    @property
    def unused(self) -> tuple[Unused, ...]:
        """The columns of labels that are not read."""
        return (Unused(f"other columns of labels: {', '.join(self.others)}"),) if self.others else ()

    def description(self, files: Mapping[str, Sequence[Path]]) -> str:
        """Return in words how the files of each part are read."""
        file_names = {part: few([path.name for path in paths], 3) for part, paths in files.items()}
        splits = "splits " + ", ".join(f"{part} ({file_names[part]})" for part in SPLITS if part in files)
        if len(files) == 1:
            splits = f"no splits ({', '.join(file_names.values())})"
        names = "class names of the metadata" if self.names else "the labels are the class names"
        return f"images in column {self.image}, labels in column {self.label} ({self.kind}; {names}); {splits}"


def open_file(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, with a ValueError of one line if it is none or damaged."""
    import pyarrow.parquet as pq

    with reading(path):
        return pq.ParquetFile(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn PyArrow's errors while a Parquet file is read into a ValueError that says what the file is instead."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        file_kind = kind(path)
        reason = f"it is {file_kind}" if file_kind not in (None, "Parquet") else brief(error)
        if file_kind == "Parquet":
            reason = f"it is cut off or damaged ({reason.rstrip('.')}): {AGAIN}"
        raise ValueError(f"data.path: {path} cannot be read as Parquet: {reason}") from error


def find_columns(file: pq.ParquetFile, path: Path, data: Data) -> Columns:
    """Return the columns of images and labels: those that the settings name, or the only ones that can be meant.

    Raises
    ------
    ValueError
        If no column can be meant, or several can and nothing decides between them.
    """
    schema = file.schema_arrow
    for field, column in (("image", data.image), ("label", data.label)):
        if column is not None and column not in schema.names:
            raise ValueError(
                f"data.{field}: {path} has no column {column!r}; its columns are {', '.join(schema.names)}"
            )
    image = _image(file, path, data.image)
    label, others = _label(schema, path, image=image, chosen=data.label)
    label_kind = _kind(schema.field(label).type)
    if label_kind is None:
        raise ValueError(
            f"data.label: column {label} of {path} is of type {schema.field(label).type}; a label is a whole "
            "number, text, or true or false"
        )
    return Columns(image, label, label_kind, _class_names(schema, label), others)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what the hub's library wrote about each column into the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the class names that the metadata gives to the whole numbers of a column, or None without such names."""
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not names or _kind(schema.field(label).type) != WHOLE_NUMBERS:
        return None
    return tuple(map(str, names))


def _columns_and_types(schema: pa.Schema) -> str:
    """Return the names of all columns with their types, for a message."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _value_type(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which may be stored as a dictionary of values."""
    import pyarrow as pa

    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def _kind(arrow_type: pa.DataType) -> str | None:
    """Return what labels of an Arrow type are, in words, or None if no labels are of that type."""
    import pyarrow as pa

    value_type = _value_type(arrow_type)
    if pa.types.is_boolean(value_type):
        return TRUE_AND_FALSE
    # pandas turns integers with gaps into floating-point numbers.
    if pa.types.is_integer(value_type) or pa.types.is_floating(value_type):
        return WHOLE_NUMBERS
    text_tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return TEXT if any(is_text(value_type) for is_text in text_tests) else None


def _holds_bytes(arrow_type: pa.DataType) -> bool:
    """Return whether values of an Arrow type can be image files: bytes, or a struct with a field `bytes`."""
    import pyarrow as pa

    value_type = _value_type(arrow_type)
    if pa.types.is_struct(value_type):
        return any(child.name == "bytes" and _holds_bytes(child.type) for child in value_type)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_binary(value_type) for is_binary in tests)


def _image(file: pq.ParquetFile, path: Path, chosen: str | None) -> str:
    """Return the column of images: the one that the user chose, or the only one that can hold image files.

    If several can, it is the only one whose first rows do.
    """
    schema = file.schema_arrow
    if chosen is not None:
        if not _holds_bytes(schema.field(chosen).type):
            raise ValueError(
                f"data.image: column {chosen} of {path} is of type {schema.field(chosen).type}; images are bytes, "
                "or a struct with a field `bytes`"
            )
        return chosen
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    if len(candidates) > 1:
        candidates = [name for name in candidates if _holds_images(file, path, name)] or candidates
    if len(candidates) == 1:
        return candidates[0]
    hint = f"the columns are {_columns_and_types(schema)}"
    if candidates:
        hint = f"set data.image to one of {', '.join(candidates)}"
    raise ValueError(f"data.path: {path} needs one image column, of bytes or of structs with a field `bytes`; {hint}")


def _holds_images(file: pq.ParquetFile, path: Path, column: str) -> bool:
    """Return whether one of the first values of a column is an image file."""
    with reading(path):
        batch = next(file.iter_batches(SEARCHED_ROWS, columns=[column]), None)
    if batch is None:
        return False
    return any(content and format_of(content[:HEAD]) for content, _ in images_of(batch.column(0)))


def _label(schema: pa.Schema, path: Path, *, image: str, chosen: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the column of labels, and the other columns that the metadata describes as labels."""
    possible = [
        field.name
        for field in schema
        if field.name != image and _kind(field.type) and not field.name.startswith("__index_level_")
    ]
    features = _features(schema)
    described = [name for name in possible if isinstance(features.get(name), dict) and "names" in features[name]]
    if chosen is None and "label" in possible:
        chosen = "label"
    if chosen is not None:
        return chosen, tuple(name for name in described if name != chosen)
    usual = [name for name in possible if name.lower() in LABEL_NAMES]
    for group in (described, usual, possible):
        if len(group) == 1:
            return group[0], ()
        if group:
            raise ValueError(
                f"data.path: {path} has {len(group)} columns that may be the label, {', '.join(group)}; "
                f"data.label decides, e.g. data.label={group[0]}"
            )
    raise ValueError(
        f"data.path: {path} has no column that can be the label, a whole number, text, or true or false; its "
        f"columns are {_columns_and_types(schema)}"
    )


def has_labels(columns: Columns, first: Path, schema: pa.Schema, path: Path) -> bool:
    """Return whether a file has labels.

    Raises
    ------
    ValueError
        If the file's columns are not those of the first file; only the labels may be absent.
    """
    if columns.image not in schema.names or not _holds_bytes(schema.field(columns.image).type):
        raise ValueError(
            f"data.path: {path} has no image column {columns.image} as {first} has; its columns are "
            f"{_columns_and_types(schema)}"
        )
    if columns.label not in schema.names:
        return False
    label_type = schema.field(columns.label).type
    if _kind(label_type) != columns.kind:
        raise ValueError(
            f"data.path: labels in column {columns.label} are {columns.kind} in {first} and of type "
            f"{label_type} in {path}"
        )
    if _class_names(schema, columns.label) != columns.names:
        raise ValueError(f"data.path: {path} and {first} do not agree on the class names")
    return True


def read_labels(paths: Sequence[Path], columns: Columns) -> list[Value]:
    """Return the labels of several files as they are stored. An empty text counts as a null label."""
    import pyarrow as pa

    labels: list[Value] = []
    for path in paths:
        with reading(path):
            column = open_file(path).read(columns=[columns.label]).column(0)
        values = column.to_pylist()
        if columns.kind == TEXT:
            values = [value or None for value in values]
        elif pa.types.is_floating(_value_type(column.type)):
            values = [_whole(value, path, columns.label) for value in values]
        labels += values
    return labels


def _whole(value: float | None, path: Path, column: str) -> int | None:
    """Return a floating-point label as a whole number, or None if it is null or not a number."""
    if value is None or math.isnan(value):
        return None
    if not value.is_integer():
        raise ValueError(f"data.label: column {column} of {path} holds {value}, which is no class")
    return int(value)


def name_classes(
    columns: Columns, values: Mapping[str, list[Value]], where: str
) -> tuple[tuple[str, ...], Callable[[Value], int | None]]:
    """Return the class names, and a function that maps a stored label to its class index.

    Parameters
    ----------
    values
        The stored labels of each part.
    where
        What to call the data set in messages.
    """

    def as_index(value: Value) -> int | None:
        return None if value is None else int(value)

    if columns.names is not None:
        return columns.names, as_index
    if columns.kind == TRUE_AND_FALSE:
        return ("False", "True"), as_index
    if columns.kind == TEXT:
        names = sorted({value for part in values.values() for value in part if isinstance(value, str)})
        index = {name: i for i, name in enumerate(names)}
        return tuple(map(shown, names)), lambda value: None if value is None else index[str(value)]
    highest = max((int(value) for part in values.values() for value in part if value is not None), default=-1)
    rows = sum(map(len, values.values()))
    if highest >= rows:
        raise ValueError(f"data.path: {where} has no class names, and labels up to {highest} in {rows} rows")
    return tuple(map(str, range(highest + 1))), as_index


def images_of(column: pa.Array) -> list[tuple[bytes | None, str]]:
    """Return the bytes of each image of a column, and its path as the data set has it. A null image has null bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_struct(column.type):
        return [(content, "") for content in column.to_pylist()]
    fields = dict(zip((child.name for child in column.type), column.flatten(), strict=True))
    paths = fields["path"].to_pylist() if "path" in fields else [None] * len(column)
    return [(content, str(path or "")) for content, path in zip(fields["bytes"].to_pylist(), paths, strict=True)]
