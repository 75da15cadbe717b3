"""Convert an ONNX graph to a newer version of ONNX's operator set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.forms.original import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from tasks.forms.given import Graph

LEAST = 13
"""The oldest version in which weights can be quantized per channel: QuantizeLinear has an axis since then."""
TARGET = 18
"""The version that older graphs are converted to."""


def modern(
    model: onnx.ModelProto, graph: Graph, is_same: Callable[[onnx.ModelProto], bool]
) -> tuple[onnx.ModelProto, str]:
    """Return a graph in an operator set that can be quantized, and a note where it was not in one.

    `is_same` executes a converted graph and says whether it has the scores of the given one. Where it has not, or the
    library cannot convert the graph, it stays as it was.
    """
    import onnx

    if graph.opset >= LEAST:
        return model, ""
    try:
        converted = onnx.version_converter.convert_version(model, TARGET)
        converted.ir_version = max(converted.ir_version, onnx.helper.find_min_ir_version_for(converted.opset_import))
        if is_same(converted):
            return converted, f"its operator set {graph.opset} was converted to {TARGET}"
        reason = "the converted graph has other scores"
    except Exception as error:
        # The library raises what it likes, and a runtime too.
        reason = one_line(error)
    return model, f"its operator set {graph.opset}, of which there may be no int8 forms, was not converted: {reason}"
