"""Kinds of operators: those that compute, convert types, change the layout, or copy, and others."""

from __future__ import annotations

KINDS = ("compute", "convert", "reorder", "copy", "other")
# Types of operators by kind, as all libraries name them: in lower case, without their namespace (aten::).
_KIND = {
    "convert": (
        "quantizelinear",
        "dequantizelinear",
        "dynamicquantizelinear",
        "cast",
        "convert",
        "fakequantize",
        "to",
        "_to_copy",
        "quantize_per_tensor",
        "quantize_per_channel",
        "dequantize",
        "quantize",
        "type_as",
        "half",
        "float",
    ),
    "reorder": (
        "reorder",
        "reorderinput",
        "reorderoutput",
        "transpose",
        "permute",
        "contiguous",
        "reformat",
        "shuffle",
        "nhwctonchw",
        "_to_dense",
        "to_mkldnn",
        "mkldnn_reorder_conv2d_weight",
    ),
    "copy": ("memcpyfromhost", "memcpytohost", "identity", "copy", "copy_", "clone", "memcpy dtoh", "memcpy htod"),
    "other": (
        "reshape",
        "view",
        "flatten",
        "squeeze",
        "unsqueeze",
        "shape",
        "gather",
        "constant",
        "constantofshape",
        "expand",
        "slice",
        "lift_fresh",
        "detach",
        "resolve_conj",
        "resolve_neg",
        "empty",
        "size",
        "forward",
        "call compiledfxgraph none",
        "torchdynamo cache lookup",
        "pregraph bytecode",
        "aotdispatcher runtime wrapper prologue",
    ),
}
KIND = {name: kind for kind, names in _KIND.items() for name in names}


def kind(operator_type: str) -> str:
    """Return the kind of an operator, one of KINDS, from its type."""
    short = operator_type.rpartition("::")[2].lower()
    if short.startswith(("torch-compiled region", "reformat", "reorder")):
        return "reorder" if short.startswith("re") else "other"
    return KIND.get(short, "compute")
