"""Adopt: bring a trained classifier that the user gives as an ONNX file into burnish's form, and compare the two.

The form takes images as every exported model of the study does, so that it can be quantized, built and measured like
one. What it returns for real images is compared with what the given file returns for them through its own input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.caching.stage import stage
from tasks.datasets._pixels import normalise
from tasks.forms import onnxcost, onnxfile
from tasks.forms.canonical import Canonical, canonical
from tasks.forms.given import content_of_file, read_graph
from tasks.forms.original import Original
from tasks.forms.parity import BATCH, compared_pixels, parity
from tasks.machine import cores
from tasks.records import Forms, Model, Preparation, Prepared, Variant
from tasks.runtimes import onnxruntime
from tasks.tables.variants import variant_row

if TYPE_CHECKING:
    from tasks.caching.work import Work

IMAGES = 64
"""Real images that the form is compared with the given file on."""
TOLERANCE = 1e-3
"""Largest difference of a score, as a share of the largest one, that is accepted: as by default for exported models."""
HALF_TOLERANCE = 1e-2
"""The same for a file whose weights are in half precision, which has three decimal digits."""


def adopt(work: Work, model: Model, data: Prepared, preparation: Preparation) -> Forms:
    """Store the form of a given model as the variant `<label>/given`. A file that has that form stays as it is.

    Raises
    ------
    ValueError
        If the file is none that can be adopted, does not fit the images, or its form has other scores. The message is
        one line.
    """
    file = Path(model.file).expanduser()
    try:
        return _adopted(work, model, file, data, preparation)
    except ValueError as error:
        raise ValueError(f"{model.file}: {error}") from None


def _adopted(work: Work, model: Model, file: Path, data: Prepared, preparation: Preparation) -> Forms:
    graph = read_graph(file)
    with work.store.temporary() as folder:
        form = canonical(file, graph, preparation, data, folder)
        described = onnxfile.load(onnxruntime.model_file(form.path))
        precision = onnxcost.precision(described)
        tolerance = TOLERANCE if precision == "fp32" else HALF_TOLERANCE
        original = Original(file, graph, preparation, form.output, folder / "original")
        given = _ScoresOfFile(original, form.activation, preparation.outputs_of_classes)
        difference = parity(given, _ScoresOfForm(form, data), compared_pixels(work, data, IMAGES))
        if not difference <= tolerance:
            raise ValueError(
                f"burnish's form of it has scores that differ from its own by {difference:.3g} of its largest one; "
                f"tolerance {tolerance:g}"
            )
        artifact = work.store.put(form.path, "onnx", precision)
        variant = Variant(
            name=f"{model.label}/given",
            model=model.label,
            stage="adopt",
            format="onnx",
            precision=precision,
            parameters=onnxcost.parameters(described),
            macs=onnxcost.macs(described),
            artifact=artifact,
            benchmark=True,
        )
    note = "; ".join(form.notes) or None
    work.log.info("%s: %s; relative difference %.2g", variant.name, note or "kept as it is", difference)
    row = variant_row(variant, parity=difference, tolerance=tolerance, note=note)
    return Forms(variants=(variant,), tables={"variants": work.rows("variants", [row])})


class _ScoresOfFile:
    """The given file, which takes stored images here and returns a score per class of the data."""

    def __init__(self, original: Original, activation: str, columns: tuple[int, ...] | None) -> None:
        self.original = original
        self.activation = activation
        self.columns = columns

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the scores. Probabilities of some of the file's classes are divided by their sum."""
        scores = self.original.run(images)
        if self.columns is not None:
            scores = scores[:, self.columns]
        return scores / scores.sum(1, keepdims=True) if self.activation == "Softmax" else scores


class _ScoresOfForm:
    """The canonical form, which takes stored images here and returns what the given file returns."""

    def __init__(self, form: Canonical, data: Prepared) -> None:
        self.session = onnxruntime.open(form.path, "cpu", BATCH, cores())
        self.activation = form.activation
        self.data = data

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, or the probabilities that the given file makes of them."""
        logits = self.session.run(normalise(images, self.data.mean, self.data.std))
        if self.activation == "Softmax":
            exponentials = np.exp(logits - logits.max(1, keepdims=True))
            return exponentials / exponentials.sum(1, keepdims=True)
        return 1 / (1 + np.exp(-logits)) if self.activation == "Sigmoid" else logits


adopt_task = stage(
    lambda inputs: f"adopt/{inputs['model'].label}",
    libraries=("onnx", "onnxruntime", "numpy"),
    extra=content_of_file,
)(adopt)
