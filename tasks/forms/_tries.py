"""Try ways to prepare images on a given model: how many images it then has right, and which ways count as the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.machine.quota import usable_processors
from tasks.measure.metrics import agreement, mcnemar, paired_drop
from tasks.records._data import ChannelOrder, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.forms._classes import Outputs
    from tasks.forms._statements import Normalisation
    from tasks.forms._trial_images import TrialImages
    from tasks.forms.given import Graph

BATCH = 16
"""Images that a model whose batch is free gets at a time."""
SAME = 0.97
"""Two preparations under which a model gives this share of the images the same class count as the same."""
PROBED = (224, 32, 64, 299, 384)
"""Sizes at which a model is run once, where the file does not say how many outputs it has."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in a grey image (ITU-R BT.601), as Pillow has them."""


@dataclass(frozen=True)
class Option:
    """A value of one aspect of a preparation."""

    value: Any
    by: str
    """Where it comes from: a source, or "tried" for one of the usual values."""
    told: bool = False
    """Whether a source states it."""


@dataclass(frozen=True)
class Geometry:
    """The size of a model's input, in pixels, and that of the shorter side before the crop; None: the same."""

    image_size: int
    resize: int | None


@dataclass(frozen=True)
class ClassOrder:
    """Which output stands for which class."""

    words: str
    outputs: Outputs | None
    """For each class of the data, the number of its output. None: the same order."""


@dataclass(frozen=True)
class Input:
    """How pixels become the input of a model. Tries that differ in the order of the classes alone share it."""

    order: ChannelOrder
    layout: Layout
    geometry: Geometry
    normalisation: Normalisation


@dataclass(frozen=True)
class Try:
    """One way to prepare images: a value for each aspect."""

    order: Option
    layout: Option
    geometry: Option
    normalisation: Option
    classes: Option
    rank: int = 0
    """How usual it is; 0 is the most usual."""
    as_told: bool = True
    """Whether each aspect that sources state has a value that one of them states."""

    @property
    def input(self) -> Input:
        """How it makes the model's input."""
        return Input(self.order.value, self.layout.value, self.geometry.value, self.normalisation.value)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in self.normalisation.value)
        geometry = self.geometry.value
        size = f"{geometry.image_size} pixels"
        if geometry.resize and geometry.resize != geometry.image_size:
            size += f" cropped from {geometry.resize}"
        order = self.order.value if self.order.value == "grey" else self.order.value.upper()
        return f"{order} {self.layout.value.upper()}, {size}, mean {mean}, std {std}, {self.classes.value.words}"


class Classifier:
    """A given model, opened in ONNX Runtime on the CPU."""

    def __init__(self, file: Path, graph: Graph, output: str) -> None:
        from tasks.runtimes import _onnxruntime

        _onnxruntime.load_library("cpu")
        self._session = _onnxruntime.create(file, _onnxruntime.CPU, {}, usable_processors(), {})
        self._graph = graph
        self._output = output

    def outputs(self, layouts: Sequence[tuple[Layout, int, int | None]]) -> int:
        """Return the number of outputs, where the file does not say it.

        Raises
        ------
        ValueError
            If the model accepts no image of a usual size.
        """
        refusal = ""
        for layout, channels, fixed in layouts:
            for size in (fixed,) if fixed else PROBED:
                pixels = np.zeros((1, size, size, 3), np.uint8)
                order: ChannelOrder = "rgb" if channels == 3 else "grey"
                try:
                    return self.scores(pixels, Input(order, layout, Geometry(size, None), ((0.0,), (1.0,)))).shape[1]
                except Exception as error:
                    # Each operator has its own way to refuse a size.
                    refusal = " ".join(str(error).split())[:300]
        raise ValueError(f"the model accepts no image of a usual size: {refusal}")

    def scores(self, pixels: np.ndarray, wanted: Input) -> np.ndarray:
        """Return the model's scores of images: float32, (images, outputs).

        Parameters
        ----------
        pixels
            uint8, (images, size, size, 3).

        Raises
        ------
        Exception
            Whatever ONNX Runtime raises where the model does not accept inputs of this size.
        """
        step = self._graph.batch or BATCH
        scores = []
        for start in range(0, len(pixels), step):
            inputs = as_input(pixels[start : start + step], wanted, np.dtype(self._graph.dtype))
            missing = step - len(inputs) if self._graph.batch else 0
            # A fixed batch is filled up with its last image.
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
            output = self._session.run([self._output], {self._graph.input: inputs})[0]
            scores.append(np.asarray(output, np.float32).reshape(len(inputs), -1)[: len(inputs) - missing])
        return np.concatenate(scores)


def as_input(pixels: np.ndarray, wanted: Input, dtype: np.dtype) -> np.ndarray:
    """Return pixels as the input of a model that wants them so."""
    mean, std = (np.asarray(values, np.float32) for values in wanted.normalisation)
    scaled = pixels / np.float32(255)
    if wanted.order == "grey":
        scaled = (scaled @ GREY)[..., None]
    scaled = (scaled - mean) / std
    if wanted.order == "bgr":
        scaled = scaled[..., ::-1]
    if wanted.layout == "nchw":
        scaled = scaled.transpose(0, 3, 1, 2)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        scaled = np.clip(np.rint(scaled), limits.min, limits.max)
    return np.ascontiguousarray(scaled, dtype)


class Trials:
    """The answers of a model under the preparations that are tried, each computed once."""

    def __init__(self, classifier: Classifier, images: TrialImages) -> None:
        self.images = images
        self.seen: dict[Try, int] = {}
        """Number of images on which each preparation was tried."""
        self.refused: dict[Input, str] = {}
        """Inputs that the model does not accept -> why."""
        self._classifier = classifier
        self._scores: dict[Input, np.ndarray] = {}

    def accepts(self, tried: Try, count: int) -> bool:
        """Try a preparation on the first `count` images, and return whether the model accepts such an input."""
        wanted = tried.input
        known = self._scores.get(wanted)
        done = 0 if known is None else len(known)
        if wanted not in self.refused and done < count:
            pixels = self.images.pixels(wanted.geometry.image_size, wanted.geometry.resize, count)
            try:
                scores = self._classifier.scores(pixels[done:], wanted)
            except Exception as error:
                # Each operator has its own way to refuse a size.
                self.refused[wanted] = " ".join(str(error).split())
            else:
                self._scores[wanted] = scores if known is None else np.concatenate([known, scores])
        if wanted in self.refused:
            return False
        self.seen[tried] = max(count, self.seen.get(tried, 0))
        return True

    def outputs(self, tried: Try) -> int:
        """Return the number of the model's outputs."""
        return self._scores[tried.input].shape[1]

    def predicted(self, tried: Try, count: int) -> np.ndarray:
        """Return the class of each of the first `count` images: int64, (count,). -1: the scores are not finite."""
        scores = self._scores[tried.input][:count]
        outputs = tried.classes.value.outputs
        scores = scores[:, : len(self.images.classes)] if outputs is None else scores[:, list(outputs)]
        return np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)

    def right(self, tried: Try, count: int) -> np.ndarray:
        """Return which of the first `count` images are given the right class: bool, (count,)."""
        return self.predicted(tried, count) == self.images.labels[:count]

    def best(self, tries: Sequence[Try], count: int) -> Try:
        """Return the preparation with the most right images, of several the most usual."""
        return max(tries, key=lambda tried: (self.right(tried, count).sum(), tried.as_told, -tried.rank))

    def differing(self, first: Try, second: Try, count: int) -> tuple[int, int]:
        """Return how many images only the first has right, and how many only the second."""
        right, other = self.right(first, count), self.right(second, count)
        return int((right & ~other).sum()), int((other & ~right).sum())

    def p_value(self, first: Try, second: Try, count: int) -> float:
        """Return how probable a difference as large as that of two preparations is by chance."""
        differing = self.differing(first, second, count)
        return mcnemar(*differing) if any(differing) else 1.0

    def clearly_better(self, first: Try, second: Try, count: int) -> bool:
        """Return whether the 95 % interval of the paired difference excludes that both are equally good."""
        return paired_drop(*self.differing(first, second, count), count)[0] > 0

    def same(self, first: Try, second: Try, count: int) -> bool:
        """Return whether two preparations count as the same one, as long as neither is clearly better.

        They do where their predictions are nearly the same, and where they differ in nothing but sizes: a crop of 0.875
        and one of 1 change many predictions and hardly an accuracy.
        """
        aspects = ("order", "layout", "normalisation", "classes")
        if all(getattr(first, aspect).value == getattr(second, aspect).value for aspect in aspects):
            return True
        return agreement(self.predicted(first, count), self.predicted(second, count)) >= SAME
