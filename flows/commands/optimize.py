"""`burnish optimize`: find the fastest form of a model that the user has, within an accuracy budget."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from flows.commands.run import execute
from flows.presets import optimize
from flows.settings import Mistake, apply, plain, study_from

if TYPE_CHECKING:
    import argparse

    from tasks.records import Study

OF_A_FILE = ("output", "order", "layout", "labels")
"""Options about a model that is given as a file."""


def main(arguments: argparse.Namespace) -> None:
    """Run the study that the command line describes, then print its table and its winner."""
    execute(study_of(arguments), arguments.out)


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the preset `optimize` with the models, the images and the limits of a command line.

    Raises
    ------
    Mistake
        If an option does not fit the models, or a value is wrong.
    """
    values = plain(optimize())
    values["models"] = [_model(name, arguments) for name in arguments.models]
    values["data"] |= {"path": arguments.data} | _given(arguments, "image_size", "resize", "mean", "std")
    # The user counts in percentage points, records in shares.
    max_drop = arguments.max_drop / 100
    values["quantize"]["max_drop"] = max_drop
    values["select"]["max_drop"] = max_drop
    values["benchmark"] |= {"batch_sizes": [arguments.batch], "devices": [arguments.device]}
    return study_from(apply(values, arguments.settings), "optimize")


def _model(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of one model of the command line."""
    is_file = PurePath(name).suffix.lower() == ".onnx"
    of_a_file = _given(arguments, *OF_A_FILE)
    if is_file and arguments.weights:
        raise Mistake(f"--weights: {name} has its own weights; a name such as timm:resnet18 needs them")
    if is_file:
        return {"file": name, **of_a_file}
    if of_a_file:
        raise Mistake(f"--{next(iter(of_a_file))} is for a model that is given as an ONNX file, {name!r} is none")
    return {"name": name, "pretrained": arguments.weights or "hub"}


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the options that have a value, by name."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
