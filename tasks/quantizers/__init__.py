"""Quantizers: one file per way to make int8 forms. A file's name is the quantizer's name, and there is no other list.

A quantizer's file never imports its library at the top, only inside its functions. It has

- `SETTINGS`: the names of its settings, a tuple of texts that is read without importing the file. No two files share a
  name, and each becomes one that `quantize.settings` of a study accepts;
- `FORMAT`: the artifact format that it writes, which some runtime (tasks/runtimes) executes;
- `DYNAMIC`: whether the ranges of activations are computed in each query. If not, they are taken from images;
- `LIBRARIES`: the names of its libraries' distributions, so that forms are made anew with another version;
- `unavailable()`: return why it cannot run here (its library is not installed), or None where it can. This is quick and
  imports no library;
- `quantize(setting, fp32, folder, calibration)`: write the form of an fp32 ONNX file in one setting, and return
  its path.

Files whose names begin with "_" have what several quantizers share.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol, cast

from tasks.records import formats, plugins, quantizers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np


class NothingToDoError(ValueError):
    """A setting changes nothing in a graph, so that its form would be another setting's. The stage skips it."""


class Calibration(Protocol):
    """Normalised training images, from which the ranges of activations are taken. They are not kept in memory."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the images of these numbers, without the last: float32, (images, channels, height, width)."""


class Quantizer(Protocol):
    """What a quantizer's file has; see the module's docstring."""

    SETTINGS: tuple[str, ...]
    FORMAT: str
    DYNAMIC: bool
    LIBRARIES: tuple[str, ...]

    def unavailable(self) -> str | None: ...

    def quantize(self, setting: str, fp32: Path, folder: Path, calibration: Calibration) -> Path:
        """Write the int8 form of an ONNX file in one setting.

        Parameters
        ----------
        fp32 : an ONNX file with one input `input`, whose batch size is free, and logits as its first output
        folder : an existing folder that all settings of this file and these images share; what one setting has found
            out about the graph is kept in files there for the next one
        calibration : training images; a dynamic quantizer does not read them

        Returns
        -------
        Path
            The form, a file or a folder whose name begins with the setting's, in `folder`.

        Raises
        ------
        ValueError
            If the graph has nothing that the setting quantizes.
        NothingToDoError
            If the graph has nothing that the setting would repair.
        Exception
            Whatever the library raises.
        """


def of_setting(setting: str) -> Quantizer:
    """Return the quantizer that has a setting."""
    return load(quantizers()[setting])


REWRITING = ("equalised", "smooth")
"""How the words of a setting begin that rewrite the fp32 graph before it is quantized: its weights are then others."""


def is_static(setting: str) -> bool:
    """Return whether a setting's forms are ONNX files with ranges that are taken from images."""
    quantizer = of_setting(setting)
    return quantizer.FORMAT == "onnx" and not quantizer.DYNAMIC


def is_mixable(setting: str) -> bool:
    """Return whether layers of a setting's forms can be put back into floating point, with the fp32 file's weights."""
    return is_static(setting) and not any(word.startswith(REWRITING) for word in setting.split("-"))


TEXTS = ("SETTINGS", "LIBRARIES")
"""Constants of a quantizer's file that are tuples of texts."""
PARAMETERS = {"unavailable": (), "quantize": ("setting", "fp32", "folder", "calibration")}
"""Function of a quantizer's file -> the names of its parameters."""


def load(name: str) -> Quantizer:
    """Return the quantizer with this name.

    Raises
    ------
    ValueError
        If the file lacks something that every quantizer has.
    """
    quantizer = importlib.import_module(f"{__name__}.{name}")
    if faults := list(_faults(quantizer)):
        raise ValueError(f"tasks/quantizers/{name}.py: {'; '.join(faults)} (docs/extending.md has an example)")
    return cast("Quantizer", quantizer)


def _faults(quantizer: Any) -> Iterator[str]:
    """Yield what keeps a module from being a quantizer, in words."""
    for name in TEXTS:
        texts = getattr(quantizer, name, None)
        if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
            yield f"{name} must be a tuple of texts"
    if not isinstance(getattr(quantizer, "DYNAMIC", None), bool):
        yield "DYNAMIC must be True or False"
    executed = sorted({format for runtime in plugins("runtimes") for format in formats(runtime)})
    if getattr(quantizer, "FORMAT", None) not in executed:
        yield f"FORMAT must be a format that a runtime executes: {', '.join(executed)}"
    for name, parameters in PARAMETERS.items():
        function = getattr(quantizer, name, None)
        if not callable(function) or tuple(inspect.signature(function).parameters) != parameters:
            yield f"it must have a function {name}({', '.join(parameters)})"
