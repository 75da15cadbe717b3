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
from tasks.forms import description, onnxcost
from tasks.forms.canonical import SAME, Canonical, canonical
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


def adopt(work: Work, model: Model, data: Prepared, preparation: Preparation) -> Forms:
    """Store the form of a given model as the variant `<label>/given`. The graph of a file that has that form stays.

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
    import onnx

    graph = read_graph(file)
    with work.store.temporary() as folder:
        form = canonical(file, graph, preparation, data, folder)
        _describe(onnxruntime.model_file(form.path), data)
        tolerance = SAME[form.precision]
        original = Original(file, graph, preparation, form.output, folder / "original")
        given = _ScoresOfFile(original, form.activation, preparation.outputs_of_classes)
        difference = parity(given, _ScoresOfForm(form, data), compared_pixels(work, data, IMAGES))
        if not difference <= tolerance:
            raise ValueError(
                f"burnish's form of it has scores that differ from its own by {difference:.3g} of its largest one; "
                f"tolerance {tolerance:g}"
            )
        graph_of_form = onnx.load(onnxruntime.model_file(form.path))
        macs = onnxcost.macs(graph_of_form, folder)
        artifact = work.store.put(form.path, "onnx", form.precision)
        variant = Variant(
            name=f"{model.label}/given",
            model=model.label,
            stage="adopt",
            format="onnx",
            precision=form.precision,
            parameters=onnxcost.parameters(graph_of_form),
            macs=macs,
            artifact=artifact,
            benchmark=True,
        )
    note = "; ".join(form.notes) or None
    work.log.info("%s: %s; relative difference %.2g", variant.name, note or "kept as it is", difference)
    row = variant_row(variant, parity=difference, tolerance=tolerance, note=note)
    return Forms(variants=(variant,), tables={"variants": work.rows("variants", [row])})


def _describe(path: Path, data: Prepared) -> None:
    """Write into a form's metadata what exported files say of their classes and images; `burnish deploy` reads it."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props} | description.entries_of(data)
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, path)


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
