"""Texts from files and libraries, made fit for a message of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 12
"""A message names at most this many entries of a list, unless the caller says otherwise."""


def brief(error: Exception) -> str:
    """Return an exception's message as one line of at most 200 characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:197]}..."


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Return the first `most` names of a file for a message, without characters that would control a terminal."""
    words = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return "".join(letter if letter.isprintable() else "?" for letter in words)
