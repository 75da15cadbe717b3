"""The description that burnish writes into a model file, and checks when it reads one: a file may come from anybody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

import models
from tasks.records._base import Channels, Pixels, Record

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

    from tasks.records import Prepared

EXTRA_BYTES = 16 << 20
"""Bytes at most of an extra file in a TorchScript archive. The names of a thousand classes take some 20 KB."""
Classes = Annotated[int, Field(ge=1, le=10_000_000)]


class Architecture(Record):
    """The arguments of `models.build`, in the header of a safetensors file under the key `burnish`."""

    kind: Literal["architecture"] = "architecture"
    name: Annotated[str, Field(max_length=200)]
    num_classes: Classes
    in_channels: Literal[1, 3]
    image_size: Pixels
    width: Channels | None = None
    upsample: Pixels | None = None
    gelu: Literal["tanh"] | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        models.check(value)
        return value


class Export(Record):
    """What an exported file says of its classes and images, with one entry per field.

    The entries are in the metadata of an ONNX file, and extra files in a TorchScript archive.
    """

    kind: Literal["export"] = "export"
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000_000)]
    mean: Annotated[tuple[Annotated[float, Field(ge=-1_000, le=1_000)], ...], Field(min_length=1, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1_000)], ...], Field(min_length=1, max_length=3)]
    image_shape: tuple[Literal[1, 3], Pixels, Pixels]

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True


R = TypeVar("R", bound=Record)


def read(record: type[R], values: dict[str, Any], path: Path) -> R:
    """Make a record of JSON values that a file holds.

    Raises
    ------
    ValueError
        If a key is missing, or has a value of another type or range. The message names the file and the key.
    """
    try:
        return record.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or record.__name__.lower()
        raise ValueError(
            f"{path}: what burnish wrote into it is damaged or made up: {key}: "
            f"{first['msg'].removeprefix('Value error, ').removeprefix('Input ')}"
        ) from None


def parsed(text: str | bytes, key: str, path: Path) -> Any:
    """Parse the JSON that a file holds under a key; where it is no JSON, raise a ValueError that names both."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(
            f"{path}: what burnish wrote into it is damaged or made up: {key} is not JSON ({reason})"
        ) from None


def architecture(text: str, path: Path) -> Architecture:
    """Return the architecture that the header of a safetensors file holds."""
    values = parsed(text, "burnish", path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: what burnish wrote into it is damaged or made up: burnish is no JSON object")
    return read(Architecture, values, path)


def entries_of(data: Prepared) -> dict[str, str]:
    """Return what an exported file says of itself, for a model of these images."""
    values = {
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
        "image_shape": (data.channels, data.image_size, data.image_size),
    }
    return {key: json.dumps(value) for key, value in values.items()}


def export(entries: dict[str, str], path: Path) -> Export | None:
    """Return what an exported file says of itself; None where a tool has dropped the entries, as quantizers do."""
    values = {key: parsed(entries[key], key, path) for key in Export.model_fields if key in entries}
    return read(Export, values, path) if values else None


def extras(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Return the extra files of a TorchScript archive that burnish writes, by name."""
    entries = {}
    for entry in archive.infolist():
        folder, _, name = entry.filename.rpartition("/")
        if not folder.endswith("extra") or name not in Export.model_fields:
            continue
        if entry.file_size > EXTRA_BYTES:
            raise ValueError(f"{path}: extra/{name} has {entry.file_size} bytes, up to {EXTRA_BYTES} are accepted")
        entries[name] = archive.read(entry).decode(errors="replace")
    return entries
