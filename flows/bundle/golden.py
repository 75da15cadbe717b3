"""Write a bundle's golden images, with the inputs made of them and the outputs that its runtime gives for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.report.pictures import load_images
from tasks import runtimes, tables
from tasks.datasets._decode import decode
from tasks.datasets._pixels import normalise
from tasks.machine import quota

if TYPE_CHECKING:
    from pathlib import Path

    from flows.bundle.source import Source

FOLDER = "golden"
IMAGES = 8
"""Number of golden images."""
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""Precision -> greatest accepted difference of a logit on another machine, as a share of the largest golden logit.

fp32 differs in the order of sums alone, by some 1e-6. Half precision has 11 and 8 bits. int8 differs where instructions
round otherwise, by 0.013 of a trained model's outputs, and by 0.1 where sums saturate, which must be found (measured on
a CPU with AVX2, with and without `reduce_range`).
"""
Row = dict[str, Any]


class NoGolden(Exception):
    """Golden outputs cannot be made. The message says why."""


def precision_of(runtime: str, precision: str) -> str:
    """Return the precision in which a model file is computed: openvino_bf16 computes fp32 files in bf16."""
    return "bf16" if runtime == "openvino_bf16" and precision == "fp32" else precision


def write(source: Source, folder: Path, about: Row, preparation: Row) -> None:
    """Write the folder `golden` of a bundle.

    `folder` is the bundle, which holds the model; `about` and `preparation` are what its model.json and
    preparation.json hold.

    Raises
    ------
    NoGolden
        If the runtime cannot run here, or the run does not say which images were tested, or they are not there.
    """
    reason = runtimes.load(about["runtime"]).unavailable("cpu")
    if reason:
        raise NoGolden(reason)
    images = _images(source)
    golden = folder / FOLDER
    golden.mkdir()
    pixels = np.stack(
        [_save_and_decode(image, golden / f"{n}.png", preparation) for n, (image, _) in enumerate(images)]
    )
    inputs = normalise(pixels, preparation["mean"], preparation["std"])
    logits = outputs(folder / about["file"], about, inputs)
    if not np.isfinite(logits).all():
        raise NoGolden("the model gives outputs that are no finite numbers")
    np.save(golden / "inputs.npy", pixels)
    np.save(golden / "logits.npy", logits)
    classes = preparation["classes"]
    precision = precision_of(about["runtime"], about["precision"])
    described = {
        "precision": precision,
        "tolerance": TOLERANCES[precision],
        "images": [
            {"file": f"{n}.png", "class": classes[label], "answer": classes[answer]}
            for n, ((_, label), answer) in enumerate(zip(images, logits.argmax(axis=1), strict=True))
        ],
    }
    (golden / "golden.json").write_text(json.dumps(described, indent=1) + "\n")


def outputs(file: Path, about: Row, inputs: np.ndarray) -> np.ndarray:
    """Return the outputs of a bundle's model file in its runtime, for queries of one image: float32, (images, classes).

    `inputs` are as the file takes them.
    """
    threads = min(about["threads"], quota.usable_processors())
    session = runtimes.open_model(about["runtime"], file, "cpu", 1, threads, options=about["options"])
    try:
        return np.concatenate([session.run(inputs[n : n + 1]) for n in range(len(inputs))]).astype(np.float32)
    finally:
        session.close()


def _save_and_decode(image: np.ndarray, path: Path, preparation: Row) -> np.ndarray:
    """Save a prepared image as PNG, and prepare that anew, as a user of the bundle does."""
    from PIL import Image

    side, channels = preparation["image_size"], preparation["channels"]
    Image.fromarray(image[..., 0] if channels == 1 else image).save(path, "PNG")
    return decode(path.read_bytes(), side, preparation["resize"]).reshape(side, side, channels)


def _images(source: Source) -> list[tuple[np.ndarray, int]]:
    """Return test images, uint8, (height, width, channels), each with the number of its class."""
    chosen = choose(source.rows_of_candidate("predictions"))
    if not chosen or not source.rows("datasets"):
        raise NoGolden("the run does not say which images it was tested on")
    stored = load_images(source.out, tables.read(source.out, "datasets", source.run).collect())
    if isinstance(stored, str):
        raise NoGolden(stored)
    return [(np.array(stored[told["image"]]), told["label"]) for told in chosen]


def choose(predictions: list[Row], count: int = IMAGES) -> list[Row]:
    """Choose test images: of as many classes as possible, which are spread over all; rightly classified ones first."""
    by_class: dict[int, list[Row]] = {}
    for told in sorted(predictions, key=lambda told: (told["prediction"] != told["label"], told["image"])):
        by_class.setdefault(told["label"], []).append(told)
    labels = sorted(by_class)
    if len(labels) > count:
        labels = [labels[place] for place in np.linspace(0, len(labels) - 1, count).round().astype(int)]
    deepest = max((len(by_class[label]) for label in labels), default=0)
    in_turns = [by_class[label][n] for n in range(deepest) for label in labels if n < len(by_class[label])]
    return in_turns[:count]
