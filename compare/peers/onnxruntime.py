"""ONNX Runtime's own quantizer, onnxruntime.quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from compare.peers._onnx import input_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

U8S8 = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
"""Types that ONNX Runtime's documentation advises for x86-64 where the quantizer's default, int8 for both, is slow."""


class Images(quantization.CalibrationDataReader):
    """The calibration images, one per batch, as in ONNX Runtime's examples."""

    def __init__(self, model: Path, images: np.ndarray) -> None:
        self.name = input_name(model)
        self.batches = iter(images[:, None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next image under the name of the model's input, or None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def static(model: Path, images: np.ndarray, folder: Path) -> Path:
    """quantize_static, all defaults"""
    return _static(model, images, folder)


def static_per_channel(model: Path, images: np.ndarray, folder: Path) -> Path:
    """quant_pre_process, then quantize_static with uint8 activations and int8 weights per channel"""
    return _static(_preprocessed(model, folder), images, folder, per_channel=True, **U8S8)


def static_per_channel_reduced(model: Path, images: np.ndarray, folder: Path) -> Path:
    """as static-per-channel, with 7-bit weights (reduce_range)"""
    return _static(_preprocessed(model, folder), images, folder, per_channel=True, reduce_range=True, **U8S8)


def dynamic(model: Path, images: np.ndarray, folder: Path) -> Path:
    """quantize_dynamic, all defaults"""
    path = folder / "model.onnx"
    quantization.quantize_dynamic(model, path)
    return path


def dynamic_unsigned(model: Path, images: np.ndarray, folder: Path) -> Path:
    """quant_pre_process, then quantize_dynamic with uint8 weights"""
    path = folder / "model.onnx"
    quantization.quantize_dynamic(_preprocessed(model, folder), path, weight_type=quantization.QuantType.QUInt8)
    return path


def _preprocessed(model: Path, folder: Path) -> Path:
    """Return the file after the pre-processing that ONNX Runtime's documentation advises before quantizing."""
    path = folder / "preprocessed.onnx"
    quant_pre_process(model, path)
    return path


def _static(model: Path, images: np.ndarray, folder: Path, **arguments: Any) -> Path:
    path = folder / "model.onnx"
    quantization.quantize_static(model, path, Images(model, images), **arguments)
    return path


FORMS: dict[str, Callable[[Path, np.ndarray, Path], Path]] = {
    "static": static,
    "static-per-channel": static_per_channel,
    "static-per-channel-reduced": static_per_channel_reduced,
    "dynamic": dynamic,
    "dynamic-unsigned": dynamic_unsigned,
}
