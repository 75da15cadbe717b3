"""How often Python searches for reference cycles."""

from __future__ import annotations

import gc

FULL_AFTER = 100
"""A search of all objects follows so many searches of the middle generation; Python's own number is 10.

Objects of imported libraries live until the process ends, and searching them again and again took 2.5 of the 18 s of
processor time of a short run. The young generations, in which a cycle that holds a large array is found, are searched
as often as before."""


def search_all_seldom() -> None:
    """Let Python search all objects for reference cycles a tenth as often as it would."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_AFTER)
