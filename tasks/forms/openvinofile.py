"""An OpenVINO model: an .xml file with the graph and, beside it, a .bin file with the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from pathlib import Path

HEADS = (b"<?xml", b"<net")
"""Beginnings of the .xml file, after white space."""
TYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}
"""OpenVINO's name of a type -> NumPy's name."""


def describe(file: Path) -> tuple[int | None, tuple[int | None, ...], str, tuple[tuple[str, Path], ...]]:
    """Read the graph of a model.

    Returns
    -------
    tuple
        The batch size, the shape of one image, NumPy's name of the input's type, and the files of weights as pairs
        (name, path). A size that the model leaves open is None.

    Raises
    ------
    ValueError
        If it is other XML, has several inputs, or the .bin file is missing. The message does not name the file.
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
    entry = inputs[0].find("data")
    shape = "" if entry is None else entry.get("shape", "")
    element_type = "" if entry is None else entry.get("element_type", "")
    sizes = [_size(text) for text in shape.split(",")] if shape else []
    if not sizes or element_type not in TYPES:
        raise ValueError(
            f"its input has shape [{shape}] and type {element_type or '?'}, of which burnish makes no images"
        )
    weights = file.with_suffix(".bin")
    if not weights.is_file():
        raise ValueError(f"its weights, {weights.name}, are not beside it: put the two into one folder")
    return sizes[0], tuple(sizes[1:]), TYPES[element_type], ((weights.name, weights),)


def _size(text: str) -> int | None:
    """Return a size as the .xml file writes it; None where it is open."""
    return int(text) if text.strip().isdigit() and int(text) > 0 else None
