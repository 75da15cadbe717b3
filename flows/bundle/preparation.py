"""Say how images become a deployed model's inputs, and which classes its outputs stand for."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from flows.settings import Mistake
from tasks.forms import description

if TYPE_CHECKING:
    from pathlib import Path

    from flows.bundle.source import Source

Row = dict[str, Any]


def preparation_of(source: Source) -> Row:
    """Return what preparation.json holds."""
    described = _described(source)
    channels, side, _ = described.image_shape
    return {
        "image_size": side,
        "resize": _resize(source) or side,
        "crop": "centre",
        "interpolation": "bicubic, antialiased (Pillow's)",
        "channels": channels,
        "order": "rgb" if channels == 3 else "grey",
        "divided_by": 255,
        # A value for all channels is written once per channel.
        "mean": [*described.mean] * (channels // len(described.mean)),
        "std": [*described.std] * (channels // len(described.std)),
        "layout": "nchw",
        "type": "float32",
        "classes": [*described.classes],
    }


def _described(source: Source) -> description.Export:
    """Return classes, mean, standard deviation and shape of an image, as `export` or `adopt` wrote them into a file.

    An int8 file may lack them, and an OpenVINO model has none; then they come from its parent.
    """
    for form in reversed(source.variants):
        if form["format"] in ("onnx", "torchscript"):
            path = source.stored(form)
            metadata = _torchscript_metadata(path) if form["format"] == "torchscript" else _onnx_metadata(path)
            described = description.export(metadata, path)
            if described is not None:
                return described
    raise Mistake(f"{source.variant['name']}: its files do not say its classes and normalisation; run the study again")


def _resize(source: Source) -> int | None:
    """Return to which length images' shorter side was resized before the crop; None stands for the crop's own length.

    Where the study leaves it open, all images were prepared as its first given model wants them.
    """
    resize = source.study.data.resize
    if source.study.data.image_size is None:
        chosen = {row["model"]: row["resize"] for row in source.rows("preparations") if row["chosen"]}
        resize = next((chosen[model.label] for model in source.study.models if model.label in chosen), resize)
    return resize


def _onnx_metadata(path: Path) -> dict[str, str]:
    import onnx

    file = path if path.is_file() else next(path.glob("*.onnx"))
    entries = onnx.load(str(file), load_external_data=False).metadata_props
    return {entry.key: entry.value for entry in entries}


def _torchscript_metadata(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return description.extras(archive, path)
