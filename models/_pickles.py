"""Look into files of torch.save and torch.jit.save without running anything that the file contains.

A pickle is a program: it names functions and calls them. `torch.load(weights_only=True)` refuses every name that is not
on its own list. This module lets each refused name stand for an inert class, which only remembers its arguments, so
that the rest of the content can be inspected: keys, classes, and where the weights are.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

MOST = 300
"""At most this many names of one file are made inert. Each costs one more attempt to load the file."""
REFUSED = re.compile(r"Unsupported global: GLOBAL (.+?) was not an allowed global")


class Inert:
    """Stands for an object whose class (or for a result whose function) the file names, and which was not loaded."""

    name = ""
    """Dotted name of the class or function."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Inert:
        inert = super().__new__(cls)
        inert.arguments = arguments
        inert.state = keywords
        return inert

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: Any = keywords

    def __setstate__(self, state: Any) -> None:
        self.state = state


def outline(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the content of a file of torch.save, and the names in it that `torch.load` refused.

    In the content, tensors have shapes and no values, and objects of refused classes are `Inert`.

    Raises
    ------
    ValueError
        If the file is cut off, damaged, not written by torch.save, or names something that PyTorch blocks entirely.
    """
    import torch

    inert: dict[str, type] = {}
    while True:
        allowed: list[Any] = [
            (inert_class, f"{module}{name}") for name, inert_class in inert.items() for module in _module_prefixes(name)
        ]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="meta", weights_only=True), tuple(inert)
        except Exception as error:
            # On damaged bytes the unpickler raises nearly any kind of exception.
            refusal = REFUSED.search(str(error))
            if refusal is None or refusal[1] in inert or len(inert) >= MOST:
                raise ValueError(f"{path} is not a whole file of torch.save") from error
            name = refusal[1]
            inert[name] = type("Named", (Inert,), {"name": name})


def _module_prefixes(name: str) -> tuple[str, ...]:
    """Return what completes a refused name when put before it: PyTorch names Python's builtins without their module."""
    return ("",) if "." in name else ("builtins.", "__builtin__.")


def storage_types(archive: zipfile.ZipFile) -> set[str]:
    """Return the storage types of the weights of a TorchScript archive, e.g. {"HalfStorage"}.

    Frozen weights, which are constants of the archive's code, count too.

    Raises
    ------
    ValueError
        If the archive is damaged.
    """
    types = set()
    for name in archive.namelist():
        if name.endswith(("/data.pkl", "/constants.pkl")):
            for operation, argument, _ in pickletools.genops(archive.read(name)):
                if operation.name == "GLOBAL" and str(argument).startswith("torch "):
                    types.add(str(argument).partition(" ")[2])
    return types
