"""What the MODELs of `burnish optimize` are: ONNX files, variants of a run, or architectures with their weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.runs.choice import chosen_run, stored_variant
from flows.runs.damage import check
from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse

OF_A_FILE = ("output", "order", "layout", "labels")
"""Options about models that are given as files."""
LIBRARIES = ("timm:", "torchvision:")
"""How the names of models begin that a library makes."""


def models_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the settings of the models of a command line, in its order.

    Raises
    ------
    Mistake
        If a model is none, or an option does not fit the models.
    """
    for name in arguments.models:
        if Path(name).is_dir():
            raise Mistake(
                f"{name} is a folder; a model is an ONNX file, a variant of a run, or a name such as timm:resnet18"
            )
    named = [name for name in arguments.models if not _is_file(name) and not _is_variant(name)]
    weights = iter(_weights(named, arguments))
    of_a_file = {name: getattr(arguments, name) for name in OF_A_FILE if getattr(arguments, name) is not None}
    if of_a_file and len(named) == len(arguments.models):
        option = next(iter(of_a_file))
        raise Mistake(f"--{option} is for a model that is given as an ONNX file, {named[0]!r} is none")
    models: list[dict[str, Any]] = []
    for name in arguments.models:
        if name in named:
            models.append({"name": name, "pretrained": next(weights)})
        elif _is_file(name):
            models.append({"file": name, **of_a_file})
        else:
            models.append({**_variant(name, arguments), **of_a_file})
    return models


def _is_file(name: str) -> bool:
    return name.lower().endswith(".onnx") or Path(name).is_file()


def _is_variant(name: str) -> bool:
    """Return whether a name is that of a variant, such as lenet5/train/onnx."""
    return "/" in name and not name.startswith(LIBRARIES)


def _weights(named: list[str], arguments: argparse.Namespace) -> list[str]:
    """Return where the weights of each model come from that is given by its name."""
    weights: list[str] = arguments.weights
    if weights and not named:
        raise Mistake(f"--weights: {arguments.models[0]} has its own weights; a name such as timm:resnet18 needs them")
    if weights and len(weights) != len(named):
        raise Mistake(
            f"--weights: given {len(weights)} times for {len(named)} models ({', '.join(named)}); give it once per "
            "model that is named, in their order (hub: those that the library publishes)"
        )
    return weights or ["hub"] * len(named)


def _variant(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a variant of a run, which is taken as the ONNX file that it is.

    Raises
    ------
    Mistake
        If there is no such variant, or it is none that forms are made of.
    """
    out = Path(arguments.out)
    if arguments.run is None and not any((out / "runs").glob("*/study.toml")):
        raise Mistake(f"{name} is no ONNX file in {Path.cwd()}, and there is no run in {out} that it could be of")
    run = chosen_run(out, arguments.run, "result.json")
    check(out, run, ("variants",))
    variant = stored_variant(out, run, name)
    if variant.row["format"] != "onnx" or variant.row["precision"] == "int8":
        others = [row["name"] for row in variant.others if row["format"] == "onnx" and row["precision"] != "int8"]
        raise Mistake(
            f"{name} is {variant.row['format']} in {variant.row['precision']}; forms are made of ONNX in fp32 or fp16: "
            f"{', '.join(others) or 'this run has none'}"
        )
    return {"file": str(variant.path.absolute()), "name": re.sub(r"[^0-9A-Za-z_.-]+", "-", name)[:80]}
