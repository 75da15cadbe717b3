"""What a file of torch.save or torch.jit.save holds, found out without running anything that the file says.

A pickle is a program: it names functions and calls them. Here every name that it says stands for an inert class, which
remembers what it was called with, so that the outline of the content can be looked at: keys, classes, types of weights.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LEGACY_HEADERS = 3
"""Pickles that stand before the content in files of before PyTorch 1.6: magic number, protocol, machine."""


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

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of a dict's subclass do not matter here."""

    def append(self, value: Any) -> None:
        """Entries of a list's subclass do not matter here."""

    def extend(self, values: Any) -> None:
        """Entries of a list's subclass do not matter here."""


class Storage:
    """The numbers of a tensor, which are not read."""

    def __init__(self, type_name: str, elements: int) -> None:
        self.type_name = type_name
        """As PyTorch names its storages: FloatStorage, HalfStorage, ..."""
        self.elements = elements


class _Outliner(pickle.Unpickler):
    """Builds containers of inert objects; `storages` are those met, in order."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: list[Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        """An inert class for every name but that of an ordered dict."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (Inert,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Storage:
        """A tensor's storage: ("storage", type, key, device, number of elements, ...)."""
        stored = Storage(getattr(pid[1], "__name__", str(pid[1])), int(pid[4]))
        self.storages.append(stored)
        return stored


def _outlined(file: IO[bytes]) -> tuple[Any, list[Storage]]:
    reader = _Outliner(file)
    return reader.load(), reader.storages


def outline(path: Path) -> Any:
    """Content of a file of torch.save: dicts, lists and numbers as they are, all else as `Inert`.

    Raises
    ------
    ValueError
        If the file is cut off, damaged, or was not written by torch.save.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as member:
                    return _outlined(member)[0]
        with path.open("rb") as file:
            for _ in range(LEGACY_HEADERS):
                _outlined(file)
            return _outlined(file)[0]
    except Exception as error:  # on damaged bytes an unpickler raises nearly anything
        raise ValueError(f"{path} is not a whole file of torch.save ({type(error).__name__}: {error})") from error


def storages(archive: zipfile.ZipFile) -> list[Storage]:
    """Weights of a TorchScript archive, frozen ones (constants of its code) included, in the order of the file.

    Raises
    ------
    ValueError
        If the archive is damaged.
    """
    found: list[Storage] = []
    for name in archive.namelist():
        if name.endswith(("/data.pkl", "/constants.pkl")):
            try:
                with archive.open(name) as member:
                    found += _outlined(member)[1]
            except Exception as error:  # on damaged bytes an unpickler raises nearly anything
                raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error})") from error
    return found
