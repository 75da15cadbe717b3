"""An OpenVINO model: an .xml file with the graph and, beside it, a .bin file with the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from pathlib import Path

HEADS = (b"<?xml", b"<net")
TYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}
"""OpenVINO's names of types to NumPy's."""


def describe(file: Path) -> tuple[int | None, tuple[int | None, ...], str, tuple[tuple[str, Path], ...]]:
    """(Batch, shape of one image, NumPy's name of the input's type, the weights' file); None where a size is open.

    Raises
    ------
    ValueError
        If it is other XML, has several inputs, or the .bin file is missing; without the file's name.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"no OpenVINO model: {error}") from None
    inputs = [layer for layer in root.iter("layer") if layer.get("type") == "Parameter"]
    if root.tag != "net" or not inputs:
        raise ValueError(f"no OpenVINO model: XML of <{root.tag}>")
    if len(inputs) > 1:
        names = ", ".join(str(layer.get("name")) for layer in inputs)
        raise ValueError(f"it has {len(inputs)} inputs ({names}); models of one are measured")
    said = inputs[0].find("data")
    shape, element = (said.get("shape", ""), said.get("element_type", "")) if said is not None else ("", "")
    sizes = (
        [int(size) if size.strip().isdigit() and int(size) > 0 else None for size in shape.split(",")] if shape else []
    )
    if not sizes or element not in TYPES:
        raise ValueError(f"its input has shape [{shape}] and type {element or '?'}, of which burnish makes no images")
    weights = file.with_suffix(".bin")
    if not weights.is_file():
        raise ValueError(f"its weights, {weights.name}, are not beside it: put the two into one folder")
    return sizes[0], tuple(sizes[1:]), TYPES[element], ((weights.name, weights),)
