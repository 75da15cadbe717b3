"""Check the folders that a user names, before anything else is done."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse

BELOW = ("runs", "store", "tables", "scratch")
"""Folders that burnish makes inside the folder of artifacts."""
ONLY_READ = {"why", "deploy"}
"""Commands that write nothing into the folder of artifacts."""


def refuse_unusable(arguments: argparse.Namespace) -> None:
    """Check the folders that a command was given with --out and --to.

    Raises
    ------
    Mistake
        If a path cannot be a folder, or the command writes there and cannot.
    """
    if hasattr(arguments, "out"):
        refuse_out("--out", arguments.out, written=arguments.command not in ONLY_READ)
    if hasattr(arguments, "to"):
        _refuse("--to", arguments.to, written=True)


def refuse_out(option: str, folder: str, *, written: bool = True) -> None:
    """Check a folder of artifacts, and the folders that burnish makes inside it.

    Parameters
    ----------
    option
        What the user calls the folder, for the message: --out, or a field of the form.
    folder
        The path as the user wrote it.
    written
        Whether something is to be written there.

    Raises
    ------
    Mistake
        If one of the paths cannot be a folder, or nothing can be written there.
    """
    _refuse(option, folder, written=written)
    for name in BELOW:
        _refuse(option, str(Path(folder) / name), written=False)


def refuse_within_images(option: str, folder: str, images: str | None) -> None:
    """Check that a folder of artifacts does not lie among the images, where the next run would take it for images.

    Parameters
    ----------
    images
        `data.path` of a study: a folder, a file, an address or nothing.

    Raises
    ------
    Mistake
        If it lies there.
    """
    if not images or not Path(images).expanduser().is_dir():
        return
    data = Path(images).expanduser().resolve()
    if Path(folder).absolute().resolve().is_relative_to(data):
        raise Mistake(
            f"{option} {folder} lies in {data}, which has the images: the next run would take what burnish writes "
            f"there for images; name a folder elsewhere, such as {option} {data.parent / 'artifacts'}"
        )


def _refuse(option: str, folder: str, *, written: bool) -> None:
    """Check one folder as `refuse_out` does."""
    # An empty text would be taken for the current folder.
    if not folder.strip():
        raise Mistake(f"{option}: an empty text is no folder; name one")
    try:
        str(Path(folder).absolute()).encode()
    except UnicodeEncodeError:
        # Polars reads and writes no such path.
        shown = os.fsencode(Path(folder).absolute()).decode("utf-8", "backslashreplace")
        raise Mistake(f"{option}: the name of {shown} is no UTF-8; name another folder") from None
    try:
        existing = _nearest_existing(Path(folder))
        if existing.is_dir():
            reason = _unwritable(existing) if written else ""
        else:
            kind = "a link to nothing" if existing.is_symlink() else "a file"
            reason = f"no folder can be there, as {existing} is {kind}"
    except OSError as error:
        reason = f"no folder can be there ({error.strerror})"
    if reason:
        raise Mistake(f"{option} {folder}: {reason}; name another folder")


def _nearest_existing(path: Path) -> Path:
    """Return the path itself, or else the nearest folder above it that exists."""
    path = path.absolute()
    # This raises OSError where the name is too long, or a folder above it may not be read.
    path.exists()
    return next(candidate for candidate in (path, *path.parents) if candidate.is_symlink() or candidate.exists())


def _unwritable(folder: Path) -> str:
    """Return why no file can be made in a folder; empty where one can.

    A full disk is no reason here; it is reported where something is to be written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""
        return f"nothing can be written in {folder} ({error.strerror})"
