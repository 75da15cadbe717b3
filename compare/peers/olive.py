"""Olive (olive-ai): its passes for quantizing an ONNX model, each a workflow of one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from olive.data.registry import Registry
from olive.workflows import run

from compare.peers._onnx import input_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


def static(model: Path, images: np.ndarray, folder: Path) -> Path:
    """pass OnnxStaticQuantization, all defaults"""
    return _run(model, images, folder, type="OnnxStaticQuantization")


def static_per_channel(model: Path, images: np.ndarray, folder: Path) -> Path:
    """pass OnnxStaticQuantization with uint8 activations and int8 weights per channel"""
    return _run(
        model,
        images,
        folder,
        type="OnnxStaticQuantization",
        precision="int8",
        activation_type="uint8",
        per_channel=True,
    )


def dynamic(model: Path, images: np.ndarray, folder: Path) -> Path:
    """pass OnnxDynamicQuantization, all defaults"""
    return _run(model, None, folder, type="OnnxDynamicQuantization")


def _run(model: Path, images: np.ndarray | None, folder: Path, **settings: Any) -> Path:
    """Run a workflow of one pass, calibrated with the images if there are any."""
    config: dict[str, Any] = {
        "input_model": {"type": "OnnxModel", "model_path": str(model)},
        "passes": {"quantize": settings},
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
    }
    if images is not None:
        name = input_name(model)
        # Olive wants pairs of inputs and label; calibration ignores the label.
        pairs = [({name: image}, 0) for image in images]
        Registry.register_dataset("calibration_images")(lambda **options: pairs)
        config["data_configs"] = [{"name": "calibration", "load_dataset_config": {"type": "calibration_images"}}]
        settings["data_config"] = "calibration"
    output = run(config).get_best_candidate()
    return folder / output.model_path


FORMS: dict[str, Callable[[Path, np.ndarray, Path], Path]] = {
    "static": static,
    "static-per-channel": static_per_channel,
    "dynamic": dynamic,
}
