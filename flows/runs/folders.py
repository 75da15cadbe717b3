"""Folders that a person names, looked at before anything else is done."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse

BELOW = ("runs", "store", "tables", "scratch")
"""Folders that burnish makes in the one of artifacts."""
ONLY_READ = {"why", "deploy"}
"""Commands that write nothing to the folder of artifacts."""


def refuse_unusable(asked: argparse.Namespace) -> None:
    """Look at the folders that a command was given with --out and --to.

    Raises
    ------
    Mistake
        If one cannot be a folder, or nothing can be written there although the command does.
    """
    if hasattr(asked, "out"):
        refuse_out("--out", asked.out, written=asked.command not in ONLY_READ)
    if hasattr(asked, "to"):
        _refuse("--to", asked.to, written=True)


def refuse_out(option: str, given: str, *, written: bool = True) -> None:
    """Refuse a folder of artifacts, with a `Mistake`, if it or one of those that burnish makes in it cannot be a
    folder."""
    _refuse(option, given, written=written)
    for name in BELOW:
        _refuse(option, str(Path(given) / name), written=False)


def _refuse(option: str, given: str, *, written: bool) -> None:
    # as a path it would be the folder that one stands in
    if not given.strip():
        raise Mistake(f"{option}: an empty text is no folder; name one")
    try:
        there = _nearest(Path(given))
        if there.is_dir():
            why = _unwritable(there) if written else ""
        else:
            why = f"no folder can be there, as {there} is {'a link to nothing' if there.is_symlink() else 'a file'}"
    except OSError as error:
        why = f"no folder can be there ({error.strerror})"
    if why:
        raise Mistake(f"{option} {given}: {why}; name another folder")


def _nearest(path: Path) -> Path:
    """The path, or the nearest of what it is below that is there."""
    path = path.absolute()
    # raises where the name is too long, or a folder above it may not be looked into
    path.exists()
    return next(one for one in (path, *path.parents) if one.is_symlink() or one.exists())


def _unwritable(folder: Path) -> str:
    """Why no file can be made in a folder; empty where one can. A full disk is said where something is to be
    written."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""
        return f"nothing can be written in {folder} ({error.strerror})"
