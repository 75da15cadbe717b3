"""Label: classify images that have no labels with the original model, whose predictions stand for labels from then on.

So all later stages, which compare predictions with labels, measure how often a form agrees with the original.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.caching.stage import stage
from tasks.datasets import open_source
from tasks.datasets._decode import Bad, EncodedImage, decode_all
from tasks.datasets._find import resolve
from tasks.forms import weights
from tasks.forms.given import content_of_file, read_graph, score_output
from tasks.forms.original import Original
from tasks.measure import metrics
from tasks.records import Data, Inspected, Labelled, Model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tasks.caching.work import Work
    from tasks.datasets._decode import DecodedImage
    from tasks.datasets._source import Part

BATCH = 32
"""Images that are classified at a time."""


def label(work: Work, model: Model, settings: Data, inspected: Inspected) -> Labelled:
    """Classify every image of the source with the given file, as it is, in ONNX Runtime; or with trained weights.

    An image that cannot be decoded is given class 0; the stage prepare refuses it or leaves it out.

    Raises
    ------
    ValueError
        If ONNX Runtime does not run the file, or its scores are no numbers. The message is one line.
    """
    (part,) = open_source(resolve(settings)).parts.values()
    preparation = inspected.preparation
    labels = np.zeros(part.rows, np.int64)
    decoded = decode_all(_encoded(part), preparation.image_size, preparation.resize)
    with work.store.temporary() as folder:
        original = _original(model, inspected, folder / "original")
        while batch := list(islice(decoded, BATCH)):
            usable = [image for image in batch if not isinstance(image.pixels, Bad)]
            if usable:
                scores = original.run(np.stack([_in_colour(image) for image in usable]))
                labels[[image.row for image in usable]] = metrics.predictions(scores)
            work.progress(batch[-1].row + 1, part.rows, "classified by the original")
        original.close()
        np.save(folder / "labels.npy", labels)
        artifact = work.store.put(folder / "labels.npy", "npy")
    work.log.info(
        "%d images without labels: the predictions of %s stand for labels (%d of its %d classes occur)",
        part.rows,
        model.label,
        len(np.unique(labels)),
        len(inspected.classes),
    )
    return Labelled(labels=artifact, classes=inspected.classes, model=model.label)


def _original(model: Model, inspected: Inspected, folder: Path) -> Original | weights.WeightsInPyTorch:
    """Open the original: a given file in ONNX Runtime, or trained weights in PyTorch."""
    preparation = inspected.preparation
    if not model.file:
        return weights.WeightsInPyTorch(model, preparation, len(inspected.classes))
    file = Path(model.file).expanduser()
    graph = read_graph(file)
    output, _ = score_output(graph, preparation.output, len(inspected.classes))
    return Original(file, graph, preparation, output.name, folder)


def _encoded(part: Part) -> Iterator[EncodedImage]:
    rows = range(part.rows)
    for row, (image, name) in zip(rows, part.read(rows), strict=True):
        yield EncodedImage(image, "train", row, name)


def _in_colour(image: DecodedImage) -> np.ndarray:
    """Return the pixels with three channels: uint8, (height, width, 3)."""
    assert isinstance(image.pixels, np.ndarray)
    return image.pixels if image.pixels.ndim == 3 else np.repeat(image.pixels[..., None], 3, axis=2)


def _content(inputs: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the key that are contents of files: the model and the images."""
    content = content_of_file(inputs) if inputs["model"].file else weights.content(inputs)
    return {**content, "content of the source": open_source(inputs["settings"]).fingerprint()}


label_task = stage(
    lambda inputs: f"label/{inputs['model'].label}",
    libraries=("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow"),
    modules=lambda inputs: (f"tasks.datasets.{resolve(inputs['settings']).source}", *weights.modules(inputs)),
    extra=_content,
)(label)
