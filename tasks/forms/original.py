"""Execute a given ONNX file as it is, on images through its own input, so that other forms can be compared with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._pixels import normalise
from tasks.forms import modelfile
from tasks.machine import cores
from tasks.runtimes import _onnxruntime
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime

    from tasks.forms.given import Graph
    from tasks.records import Preparation, Prepared

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601), as Pillow and OpenCV have them."""


def prepared_input(images: np.ndarray, preparation: Preparation, dtype: str) -> np.ndarray:
    """Return stored images as the input of a given model.

    Parameters
    ----------
    images
        uint8, (batch, height, width, channels), in RGB or with one channel.
    dtype
        The type of the model's input, as NumPy names it.
    """
    is_grey = preparation.order == "grey"
    if is_grey and images.shape[3] == 3:
        pixels = (images @ np.asarray(GREY, np.float32))[..., None]
    elif not is_grey and images.shape[3] == 1:
        pixels = np.repeat(images, 3, axis=3)
    else:
        pixels = images
    scaled = normalise(pixels, preparation.mean, preparation.std)
    if preparation.order == "bgr":
        scaled = scaled[:, ::-1]
    if preparation.layout == "nhwc":
        scaled = scaled.transpose(0, 2, 3, 1)
    if not dtype.startswith("float"):
        scaled = scaled.round()
    return np.ascontiguousarray(scaled.astype(dtype))


def open_quietly(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime on the CPU, which writes nothing to the terminal where it fails.

    Raises
    ------
    ValueError
        If ONNX Runtime does not open it. The message is one line.
    """
    import onnxruntime

    options = _onnxruntime.options(cores(), {})
    # Only what ends the process is logged. All other faults are raised, too.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(model_file(path)), options, providers=[_onnxruntime.CPU])
    except Exception as error:
        # ONNX Runtime has an exception type per kind of fault.
        raise ValueError(f"ONNX Runtime does not open the file: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line of at most 200 characters."""
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else f"{words[:197]}..."


@dataclass(frozen=True, kw_only=True)
class Source:
    """The given file, and what its form must take and return."""

    file: Path
    graph: Graph
    preparation: Preparation
    data: Prepared
    output: str
    """Name of the output whose scores are taken."""
    raw_scores: np.ndarray
    """That output for some images, as the file returns it."""

    @property
    def columns(self) -> tuple[int, ...] | None:
        """For each class, the number of the score that stands for it; None where they are in the same order."""
        columns = self.preparation.outputs_of_classes
        scores = int(np.prod(self.raw_scores.shape[1:]))
        return None if columns is None or columns == tuple(range(scores)) else columns


class Original:
    """A given file in ONNX Runtime on the CPU. It takes stored images, and returns one of the file's outputs.

    Parameters
    ----------
    folder
        For a copy of the file, where ONNX Runtime would not open it in its place.
    """

    def __init__(self, file: Path, graph: Graph, preparation: Preparation, output: str, folder: Path) -> None:
        executable = modelfile.inspect(file).executable(folder)
        self._session = open_quietly(executable)
        self._graph = graph
        self._preparation = preparation
        self._output = output

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the scores of stored images: float32, (images, scores). See `raw_scores`."""
        scores = self.raw_scores(images)
        return scores.reshape(len(scores), -1).astype(np.float32)

    def raw_scores(self, images: np.ndarray) -> np.ndarray:
        """Return the output for stored images, as the file has it; the first axis is that of the images.

        A file with a fixed batch size gets that many at a time, the last image again and again where they do not fill a
        batch.

        Raises
        ------
        ValueError
            If ONNX Runtime does not run the file on these images, or the output has no row per image.
        """
        # A file may say that it takes any number of images and take no more than it was exported with.
        size = self._graph.batch or 1
        outputs = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            full = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            outputs.append(self._output_for(full)[: len(batch)])
        return np.concatenate(outputs)

    def _output_for(self, images: np.ndarray) -> np.ndarray:
        feed = {self._graph.input: prepared_input(images, self._preparation, self._graph.dtype)}
        try:
            (scores,) = self._session.run([self._output], feed)
        except Exception as error:
            # ONNX Runtime has an exception type per kind of fault, and all mean that the file cannot be the reference.
            shape = "x".join(map(str, feed[self._graph.input].shape))
            raise ValueError(f"ONNX Runtime does not run the file on an input of {shape}: {one_line(error)}") from None
        if np.shape(scores)[:1] != (len(images),):
            shape = "x".join(map(str, np.shape(scores))) or "one value"
            raise ValueError(f"its output {self._output} is {shape} for {len(images)} images: it has no row per image")
        return np.asarray(scores)

    def close(self) -> None:
        """Release the session."""
        self.__dict__.pop("_session", None)
