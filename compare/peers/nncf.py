"""NNCF (Neural Network Compression Framework): post-training quantization of ONNX and OpenVINO models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nncf
import onnx
import openvino

from compare.peers._onnx import input_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

MIXED = {"preset": nncf.QuantizationPreset.MIXED}
"""Asymmetric activations, which NNCF's documentation advises where activations are not ReLU's."""


def openvino_default(model: Path, images: np.ndarray, folder: Path) -> Path:
    """nncf.quantize of the OpenVINO model, all defaults"""
    return _openvino(model, images, folder)


def openvino_mixed(model: Path, images: np.ndarray, folder: Path) -> Path:
    """nncf.quantize of the OpenVINO model, preset mixed (asymmetric activations)"""
    return _openvino(model, images, folder, **MIXED)


def openvino_mixed_sequential(model: Path, images: np.ndarray, folder: Path) -> Path:
    """as openvino-mixed, with the slower and more accurate bias correction"""
    return _openvino(model, images, folder, fast_bias_correction=False, **MIXED)


def onnx_default(model: Path, images: np.ndarray, folder: Path) -> Path:
    """nncf.quantize of the ONNX model, all defaults"""
    return _onnx(model, images, folder)


def onnx_mixed(model: Path, images: np.ndarray, folder: Path) -> Path:
    """nncf.quantize of the ONNX model, preset mixed (asymmetric activations)"""
    return _onnx(model, images, folder, **MIXED)


def _openvino(model: Path, images: np.ndarray, folder: Path, **arguments: Any) -> Path:
    path = folder / "model.xml"
    openvino.save_model(nncf.quantize(openvino.Core().read_model(model), _dataset(model, images), **arguments), path)
    return path


def _onnx(model: Path, images: np.ndarray, folder: Path, **arguments: Any) -> Path:
    path = folder / "model.onnx"
    onnx.save(nncf.quantize(onnx.load(model), _dataset(model, images), **arguments), path)
    return path


def _dataset(model: Path, images: np.ndarray) -> nncf.Dataset:
    """Return the calibration images, one per batch, as in NNCF's examples."""
    name = input_name(model)
    return nncf.Dataset([{name: image[None]} for image in images])


FORMS: dict[str, Callable[[Path, np.ndarray, Path], Path]] = {
    "openvino": openvino_default,
    "openvino-mixed": openvino_mixed,
    "openvino-mixed-sequential": openvino_mixed_sequential,
    "onnx": onnx_default,
    "onnx-mixed": onnx_mixed,
}
