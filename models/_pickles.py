"""What a file of torch.save or torch.jit.save holds, found out without running anything that the file says.

A pickle is a program: it names functions and calls them. `torch.load(weights_only=True)` refuses every name that is not
one of its own. Here each name that it refuses is made to stand for an inert class, which remembers what it was called
with, so that the rest of the content can be looked at: keys, classes, where the weights are.
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
"""Names that are made inert, one after the other, before a file is given up."""
REFUSED = re.compile(r"Unsupported global: GLOBAL (.+?) was not an allowed global")


class Inert:
    """An object of a class (or the result of a function) that was named and not loaded."""

    name = ""
    """Dotted name of the class or function."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = named
        return made

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: Any = named

    def __setstate__(self, state: Any) -> None:
        self.state = state


def outline(path: Path) -> tuple[Any, tuple[str, ...]]:
    """(Content of a file of torch.save with tensors that have no values and `Inert` objects, names that were refused).

    Raises
    ------
    ValueError
        If the file is cut off, damaged, was not written by torch.save, or names what may not even be made inert.
    """
    import torch

    inert: dict[str, type] = {}
    while True:
        try:
            known: list[Any] = [(made, f"{module}{name}") for name, made in inert.items() for module in _modules(name)]
            with warnings.catch_warnings(), torch.serialization.safe_globals(known):
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="meta", weights_only=True), tuple(inert)
        except Exception as error:
            # on damaged bytes the unpickler raises nearly anything
            found = REFUSED.search(str(error))
            if found is None or found[1] in inert or len(inert) >= MOST:
                raise ValueError(f"{path} is not a whole file of torch.save") from error
            inert[found[1]] = type("Named", (Inert,), {"name": found[1]})


def _modules(name: str) -> tuple[str, ...]:
    """What stands before a name that was refused: PyTorch tells those of Python itself without their module."""
    return ("",) if "." in name else ("builtins.", "__builtin__.")


def storage_types(archive: zipfile.ZipFile) -> set[str]:
    """Types of the weights of a TorchScript archive, frozen ones (constants of its code) included: HalfStorage, ...

    Raises
    ------
    ValueError
        If the archive is damaged.
    """
    found = set()
    for name in archive.namelist():
        if name.endswith(("/data.pkl", "/constants.pkl")):
            for operation, argument, _ in pickletools.genops(archive.read(name)):
                if operation.name == "GLOBAL" and str(argument).startswith("torch "):
                    found.add(str(argument).partition(" ")[2])
    return found
