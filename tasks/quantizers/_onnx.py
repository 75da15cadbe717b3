"""Shared by the quantizers that write ONNX files: what every int8 file has, and refusing one that is not int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = "nothing was quantized: the graph has no operator that the setting quantizes"


def describe(path: Path, fp32: Path) -> None:
    """Copy the metadata of the fp32 file about classes and images into an int8 form, which must be quantized.

    Raises
    ------
    ValueError
        If the form has no operator that quantizes.
    """
    import onnx

    model = onnx.load(path)
    if not any("QuantizeLinear" in node.op_type for node in model.graph.node):
        raise ValueError(NOTHING)
    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | about)
    onnx.save(model, path)
