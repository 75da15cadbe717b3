"""Read how a given model wants its images from what stands in its file, beside it, or in the library it comes from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.records._data import ChannelOrder, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MOST_BYTES = 16 << 20
"""A larger file beside a model is not read: descriptions of models have kilobytes."""
CONFIG = "config.json"
"""File in which timm keeps the preparation, and transformers the names of the classes."""
PROCESSOR = "preprocessor_config.json"
"""File in which transformers keeps the preparation."""
LABEL_FILES = ("labels.txt", "classes.txt", "class_names.txt", "imagenet_classes.txt", "synset.txt")
"""Names of files with a class per line, in the order of a model's outputs."""
PIXEL_FORMATS: dict[str, ChannelOrder] = {"Gray8": "grey", "Rgb8": "rgb", "Bgr8": "bgr"}
"""Image.BitmapPixelFormat in the metadata of ONNX (onnx/docs/MetadataProps.md) -> order of the channels."""
PIXEL_RANGES = {
    "NominalRange_0_255": ((0.0,), (1 / 255,)),
    "Normalized_0_1": ((0.0,), (1.0,)),
    "Normalized_1_1": ((0.5,), (0.5,)),
}
"""Image.NominalPixelRange in the metadata of ONNX -> mean and std, of pixels scaled to 0..1."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of pixels scaled to 0..1, in RGB order, or one value each for all channels."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What one source says of a model's preparation. None: it does not say."""

    source: str
    """The source in words, such as "config.json beside it"."""
    order: ChannelOrder | None = None
    layout: Layout | None = None
    image_size: int | None = None
    """Height and width in pixels."""
    resize: int | None = None
    """Length of the shorter side before the crop, in pixels."""
    normalisation: Normalisation | None = None
    labels: tuple[str, ...] | None = None
    """Names of the classes, in the order of the model's outputs."""


def read_beside(file: Path) -> tuple[Path, ...]:
    """Return the files beside a model that may describe it, as far as they are there."""
    names = (CONFIG, PROCESSOR, f"{file.stem}.json", f"{file.stem}.txt", *LABEL_FILES)
    return tuple(path for path in (file.parent / name for name in names) if path.is_file())


def statements(file: Path, metadata: Mapping[str, str], name: str) -> list[Statement]:
    """Return what is said of a model's preparation, the source that is nearest to the file first.

    Parameters
    ----------
    metadata
        The metadata of the ONNX file.
    name
        What the model is called. torchvision:NAME and timm:NAME are those libraries' models, which state a preparation.

    Raises
    ------
    ValueError
        If a file beside the model, or the metadata, has the right keys but no sensible values.
    """
    told = [_reading("the file's metadata", _of_burnish, metadata), _reading("the file's metadata", _of_onnx, metadata)]
    for path in read_beside(file):
        source = f"{path.name} beside the file"
        if path.suffix == ".txt":
            told.append(Statement(source=source, labels=read_labels(path)))
            continue
        content = _json(path)
        readers = (_of_processor,) if path.name == PROCESSOR else (_of_timm, _of_hub_labels)
        told += [_reading(source, reader, content) for reader in readers]
    library, _, wanted = name.partition(":")
    if library in ("torchvision", "timm") and wanted:
        told += [
            _reading(f"{library}'s {wanted}", _of_torchvision if library == "torchvision" else _of_timm_name, wanted)
        ]
    return [statement for statement in told if statement != Statement(source=statement.source)]


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names in a text file with a class per line. Empty lines at its end are left out.

    Raises
    ------
    ValueError
        If the file is absent, too large or no text.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for names of classes")
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; give a file with the name of a class per line") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give a file with a class name per line") from None
    return tuple(line.strip() for line in lines)


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or nothing where it holds something else or is too large."""
    if path.stat().st_size > MOST_BYTES:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); correct it, or take it away from the model") from None
    return content if isinstance(content, dict) else {}


def _reading(source: str, reader: Callable[[Any], dict[str, Any]], content: Any) -> Statement:
    """Return what a reader finds in the content of a source."""
    try:
        return Statement(source=source, **reader(content))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{source} describes the preparation in a way that cannot be read ({reason})") from None


def _of_burnish(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the metadata that burnish's own export writes (tasks/export.py)."""
    if not {"classes", "mean", "std", "image_shape"} <= metadata.keys():
        return {}
    channels, height, _ = json.loads(metadata["image_shape"])
    return {
        "order": "rgb" if channels == 3 else "grey",
        "layout": "nchw",
        "image_size": int(height),
        "normalisation": _normalisation(json.loads(metadata["mean"]), json.loads(metadata["std"])),
        "labels": tuple(map(str, json.loads(metadata["classes"]))),
    }


def _of_onnx(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the metadata that ONNX itself defines for images."""
    return {
        "order": PIXEL_FORMATS.get(metadata.get("Image.BitmapPixelFormat", "")),
        "normalisation": PIXEL_RANGES.get(metadata.get("Image.NominalPixelRange", "")),
    }


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read timm's config.json, in which newer versions keep the preparation under `pretrained_cfg`."""
    told = config.get("pretrained_cfg", config)
    if not {"mean", "std", "input_size"} <= told.keys():
        return {}
    channels, height, _ = told["input_size"]
    labels = config.get("label_names") or told.get("label_names")
    return {
        "order": "rgb" if channels == 3 else "grey",
        "image_size": int(height),
        # timm rounds down.
        "resize": math.floor(height / told["crop_pct"]) if told.get("crop_pct") else None,
        "normalisation": _normalisation(told["mean"], told["std"]),
        "labels": tuple(map(str, labels)) if labels else None,
    }


def _of_hub_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the names of the classes from transformers' config.json. LABEL_0 and the like are none."""
    names = config.get("id2label")
    if not names:
        return {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    return {} if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else {"labels": labels}


def _of_processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read transformers' preprocessor_config.json."""
    told: dict[str, Any] = dict(_geometry_of_processor(config))
    if "image_mean" in config or "rescale_factor" in config or "do_rescale" in config:
        told["normalisation"] = _normalisation_of_processor(config)
    if told:
        told["order"] = "bgr" if config.get("do_flip_channel_order") else "rgb"
    return told


def _normalisation_of_processor(config: Mapping[str, Any]) -> Normalisation:
    """Return mean and std, of pixels scaled to 0..1, from the rescaling and the normalisation that are told."""
    # Pixels of 0..255 times this; then 1 may be taken off (EfficientNet), and the mean and std apply to the result.
    factor = 255 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if config.get("do_normalize", True) and "image_mean" in config:
        mean, std = _floats(config["image_mean"]), _floats(config["image_std"])
        if config.get("include_top"):
            # Transformers' EfficientNet divides by the std a second time.
            std = [value**2 for value in std]
    return _normalisation([(value + offset) / factor for value in mean], [value / factor for value in std])


def _geometry_of_processor(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the size of the input and of the resized image. Sizes are a number, or an object with names of sides."""
    edge = _side(config.get("size")) if config.get("do_resize", True) else None
    crop = _side(config.get("crop_size")) if config.get("do_center_crop", "crop_size" in config) else None
    if crop:
        yield "image_size", crop
        if edge:
            yield "resize", edge
    elif edge:
        yield "image_size", edge
        if config.get("crop_pct"):
            yield "resize", int(edge / config["crop_pct"])


def _side(size: Any) -> int | None:
    """Return the side in pixels that transformers' `size` or `crop_size` means."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else int(size)


def _of_torchvision(name: str) -> dict[str, Any]:
    """Read the transforms of torchvision's weights of a model: what all of its weights have in common."""
    import torchvision

    presets = [weights.transforms() for weights in torchvision.models.get_model_weights(name)]
    told = [
        {
            "order": "rgb",
            "image_size": preset.crop_size[0],
            "resize": preset.resize_size[0],
            "normalisation": _normalisation(preset.mean, preset.std),
        }
        for preset in presets
    ]
    return {key: value for key, value in told[0].items() if all(other[key] == value for other in told)}


def _of_timm_name(name: str) -> dict[str, Any]:
    """Read what timm knows of a model by its name."""
    import timm

    config = timm.models.get_pretrained_cfg(name)
    return _of_timm(config.to_dict()) if config else {}


def _normalisation(mean: Any, std: Any) -> Normalisation:
    """Return a mean and std as tuples of as many values. One value per channel that is the same in all is one value."""
    means, stds = tuple(_floats(mean)), tuple(_floats(std))
    length = max(len(means), len(stds))
    means, stds = means * (length // len(means)), stds * (length // len(stds))
    if len(means) != len(stds) or length not in (1, 3) or min(stds) <= 0:
        raise ValueError(f"mean {list(means)} and std {list(stds)}")
    return (means[:1], stds[:1]) if len({*zip(means, stds, strict=True)}) == 1 else (means, stds)


def _floats(value: Any) -> list[float]:
    """Return a number or a list of numbers as a list."""
    return [float(entry) for entry in (value if isinstance(value, (list, tuple)) else [value])]
