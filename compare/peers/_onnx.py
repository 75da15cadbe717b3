"""What several peers need to know of an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from pathlib import Path


def input_name(model: Path) -> str:
    """Return the name of a model's only input."""
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    (name,) = (value.name for value in graph.input if value.name not in weights)
    return str(name)
