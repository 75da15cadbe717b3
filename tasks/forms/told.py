"""What burnish writes into a model file about it, and checks when it reads it: a file may come from anybody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

import models
from tasks.records._base import Channels, Pixels, Record

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

# of an entry in a TorchScript archive; a thousand classes are some 20 KB
EXTRA_BYTES = 16 << 20
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
    """What an export is of: in an ONNX file's metadata and among a TorchScript file's extra files, a key each."""

    kind: Literal["export"] = "export"
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000_000)]
    mean: Annotated[tuple[Annotated[float, Field(ge=-1_000, le=1_000)], ...], Field(min_length=1, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1_000)], ...], Field(min_length=1, max_length=3)]
    image_shape: tuple[Literal[1, 3], Pixels, Pixels]

    @classmethod
    def may_repeat(cls, field: str) -> bool:
        return True


R = TypeVar("R", bound=Record)


def read(record: type[R], said: dict[str, Any], path: Path) -> R:
    """A record from JSON values.

    Raises
    ------
    ValueError
        If a key is missing or has another type or range: one line that names file and key.
    """
    try:
        return record.model_validate_json(json.dumps(said), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or record.__name__.lower()
        raise ValueError(
            f"{path}: what burnish wrote into it is damaged or made up: {key}: "
            f"{first['msg'].removeprefix('Value error, ').removeprefix('Input ')}"
        ) from None


def parsed(text: str | bytes, key: str, path: Path) -> Any:
    """JSON that a file holds under a key; a ValueError that names both where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(
            f"{path}: what burnish wrote into it is damaged or made up: {key} is not JSON ({why})"
        ) from None


def architecture(text: str, path: Path) -> Architecture:
    """The architecture in a safetensors header."""
    said = parsed(text, "burnish", path)
    if not isinstance(said, dict):
        raise ValueError(f"{path}: what burnish wrote into it is damaged or made up: burnish is no JSON object")
    return read(Architecture, said, path)


def export(entries: dict[str, str], path: Path) -> Export | None:
    """What an exported file says of itself; None where it says nothing (as a quantizer leaves it)."""
    said = {key: entries[key] for key in Export.model_fields if key in entries}
    return read(Export, {key: parsed(text, key, path) for key, text in said.items()}, path) if said else None


def extras(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """The extra files of a TorchScript archive by name, those that burnish writes."""
    found = {}
    for entry in archive.infolist():
        folder, _, name = entry.filename.rpartition("/")
        if not folder.endswith("extra") or name not in Export.model_fields:
            continue
        if entry.file_size > EXTRA_BYTES:
            raise ValueError(f"{path}: extra/{name} is of {entry.file_size} bytes, up to {EXTRA_BYTES} are accepted")
        found[name] = archive.read(entry).decode(errors="replace")
    return found
