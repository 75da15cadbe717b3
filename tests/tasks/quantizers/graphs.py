"""Small ONNX files for tests of what quantizers do with a graph, and random images for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 24
"""Number of images."""


class Images:
    """Calibration images that are given as an array: float32, (images, 3, 8, 8)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.pixels[start:stop]


def images() -> Images:
    """Return images of noise whose mean is not zero, so that rounding moves means."""
    return Images(np.random.default_rng(1).normal(0.5, size=(IMAGES, 3, 8, 8)).astype(np.float32))


def model_file(nodes: str, constants: dict[str, np.ndarray], folder: Path, opset: int = 20) -> Path:
    """Write a model of some nodes in ONNX's textual form, and return the file. Its output is logits."""
    text = (
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[n, 3, 8, 8] input) => (float[n, classes] logits)'
        f" {{ {nodes} }}"
    )
    model = onnx.parser.parse_model(text)
    for name, values in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "fp32.onnx")
    return folder / "fp32.onnx"
