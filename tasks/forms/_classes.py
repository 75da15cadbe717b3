"""Find which output of a given model stands for which class of the data: by names, or by the usual orders."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.datasets._words import few

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WNID = re.compile(r"(n\d{8})\b")
"""A WordNet ID, with which lists of ImageNet's classes often begin their lines."""

Outputs = tuple[int, ...]
"""For each class of the data, the number of the output that stands for it."""


def by_names(classes: Sequence[str], names: Sequence[str]) -> tuple[Outputs | None, str]:
    """Match the classes of the data with the names of a model's outputs.

    Names match whatever their case, and with spaces, hyphens or underscores. Of a name with synonyms ("tench, Tinca
    tinca") each matches, and so does a WordNet ID at its beginning, unless several outputs have it.

    Returns
    -------
    The outputs, and an empty text; or None, and which classes have no output of their name.
    """
    number_of: dict[str, int | None] = {}
    for number, name in enumerate(names):
        for form in _forms(name):
            # A form that several outputs have tells none of them.
            number_of[form] = number if number_of.get(form, number) == number else None
    # Whole names come before synonyms: an output may be called by a synonym of another.
    whole = {_plain(name): number for number, name in enumerate(names)}
    if len(whole) == len(names):
        number_of |= whole
    outputs = [_only([number_of.get(form) for form in _forms(name)]) for name in classes]
    unknown = [name for name, number in zip(classes, outputs, strict=True) if number is None]
    if unknown:
        return None, f"{len(unknown)} of the data's {len(classes)} classes ({few(unknown, 3)}) are not among its names"
    if len(set(outputs)) < len(outputs):
        return None, "several of the data's classes match the same one of its names"
    return tuple(number for number in outputs if number is not None), ""


def _only(numbers: list[int | None]) -> int | None:
    """Return the first number, or None where there is none."""
    return next((number for number in numbers if number is not None), None)


def _forms(name: str) -> Iterator[str]:
    """Yield the forms under which a name may be known: as a whole, its WordNet ID, and what is between commas."""
    yield _plain(name)
    if match := WNID.match(name.strip()):
        yield match[1]
        name = name.strip()[len(match[1]) :]
        yield _plain(name)
    if "," in name:
        yield from map(_plain, name.split(","))


def _plain(name: str) -> str:
    """Return a name in lower case, with one space for any run of spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def usual_orders(classes: Sequence[str], outputs: int | None) -> list[tuple[str, Outputs | None]]:
    """Return the usual orders of outputs that have no names, in words and as outputs, the most usual first.

    Parameters
    ----------
    outputs
        Number of the model's outputs. None: unknown, and taken as one per class.
    """
    count = len(classes)
    if outputs == count + 1:
        # TensorFlow's models of ImageNet have one class more, the first.
        return [("the data's order, after one output more", tuple(range(1, count + 1)))]
    if outputs not in (None, count):
        return []
    orders: list[tuple[str, Outputs | None]] = [("the data's order", None)]
    seen = {tuple(range(count))}
    sorted_names = {
        "alphabetical order": sorted(range(count), key=lambda index: classes[index]),
        "alphabetical order without case": sorted(range(count), key=lambda index: classes[index].casefold()),
        "order of the numbers in the names": sorted(range(count), key=lambda index: _numbered(classes[index])),
    }
    for words, order in sorted_names.items():
        ranks = tuple(order.index(index) for index in range(count))
        if ranks not in seen:
            seen.add(ranks)
            orders.append((words, ranks))
    return orders


def _numbered(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts class10 after class9."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
