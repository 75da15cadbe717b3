"""`burnish optimize`: find the fastest form of a model that the user has, within an accuracy budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.given_models import models_of
from flows.commands.run import execute
from flows.presets import optimize
from flows.settings import apply, plain, study_from

if TYPE_CHECKING:
    import argparse

    from tasks.records import Study


def main(arguments: argparse.Namespace) -> None:
    """Run the study that the command line describes, then print its table and its winner."""
    execute(study_of(arguments), arguments.out, tuple(arguments.again))


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the preset `optimize` with the models, the images and the limits of a command line.

    Raises
    ------
    Mistake
        If an option does not fit the models, or a value is wrong.
    """
    values = plain(optimize())
    values["models"] = models_of(arguments)
    values["data"] |= {"path": arguments.data} | _given(arguments, "image_size", "resize", "mean", "std")
    values["data"]["unlabelled"] = arguments.unlabelled
    # The user counts in percentage points, records in shares.
    max_drop = arguments.max_drop / 100
    values["quantize"]["max_drop"] = max_drop
    values["select"] |= {"max_drop": max_drop, "by": arguments.goal}
    values["select"] |= _given(arguments, "latency_ms", "size_mb", "memory_mb")
    if arguments.goal == "throughput":
        values["benchmark"]["throughput"] = True
    if arguments.goal in ("size", "memory"):
        # A form may be slower than fp32, and layers in floating point would only make it larger.
        values["quantize"]["only_faster"] = False
        values["search"]["trials"] = 0
    values["search"] |= _given(arguments, "minutes")
    values["benchmark"] |= {"batch_sizes": [arguments.batch], "devices": [arguments.device]}
    return study_from(apply(values, arguments.settings), "optimize")


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the options that have a value, by name."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
