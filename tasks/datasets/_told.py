"""What is said of a data set while it is prepared: what is not used, which rows are bad, and what that refuses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.datasets._words import counted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.datasets import Images, Part
    from tasks.datasets._decode import Seen
    from tasks.records import Data

# rows of a kind, or classes, that a message names
SHOWN = 20
LEVELS = 16
"""Of images with 16 bits per channel: values of which 8 bits keep no more levels are refused (12 bits, kept in 16)."""
UNDECODABLE = "undecodable image"
"""The reason whose cause differs by image."""
LOST = 0.01
"""Share of the images above which it is refused that they are not used."""


class BadRow(NamedTuple):
    """A row that cannot be used."""

    part: str
    row: int
    reason: str
    detail: str
    name: str
    """What the source calls it."""

    @property
    def called(self) -> str:
        """The name, where it says more than the row's number."""
        return "" if self.name.endswith(f".parquet row {self.row}") else self.name

    def __str__(self) -> str:
        return self.reason + (f": {self.detail}" if self.detail else "") + (f" [{self.called}]" if self.called else "")


def where(settings: Data) -> str:
    return f"{settings.source} {shown(settings.path)}".strip()


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _rows(parts: dict[str, Part]) -> int:
    return sum(part.rows for part in parts.values())


def refuse_lost(images: Images, settings: Data) -> None:
    """Refuse a lost class or too many lost images, unless the user allows it.

    Raises
    ------
    ValueError
        With what is lost, and how the source was read.
    """
    lost, rows = sum(left.lost for left in images.left), _rows(images.parts)
    if settings.on_bad == "drop" or not (images.lost or lost > LOST * (rows + lost)):
        return
    what = [_classes(images.lost)] if images.lost else []
    said = "; ".join(left.said for left in images.left if left.lost)
    what += [f"{lost} of {rows + lost} images: {said}"] if lost else []
    raise _not_used(", and ".join(what), images, settings)


def _classes(lost: Sequence[str]) -> str:
    return f"the {'class' if len(lost) == 1 else 'classes'} {few(lost)}"


def _not_used(what: str, images: Images, settings: Data) -> ValueError:
    return ValueError(
        f"{where(settings)}: not used would be {what}; correct this, or leave them out with "
        f"data.on_bad=drop (read as: {images.layout})"
    )


def refuse_absent(images: Images, usable: Mapping[str, tuple[np.ndarray, np.ndarray]], settings: Data) -> None:
    """Refuse a class of which there is no image, or none to train on, unless the user allows it or nothing is trained.

    Parameters
    ----------
    usable
        Part -> (rows, labels) of the images whose labels are good, before any are left out by a limit.

    Raises
    ------
    ValueError
        With the classes, and how the source was read.
    """
    if settings.on_bad == "drop" or settings.test_fraction == 1:
        return
    rows = {part: np.bincount(labels, minlength=len(images.classes)) for part, (_, labels) in usable.items()}
    every = np.sum(list(rows.values()), axis=0)
    trained = rows.get("train", every)
    lost = [
        f"{name} (" + (f"no training image, {every[i]} in other parts)" if every[i] else "no image)")
        for i, name in enumerate(images.classes)
        if not trained[i]
    ]
    if lost:
        raise _not_used(_classes(lost), images, settings)


def tell_left(log: logging.Logger, images: Images) -> None:
    """Warn of what is not used."""
    for left in images.left:
        log.log(logging.INFO if left.harmless else logging.WARNING, "not used: %s", left.said)
    for name in images.lost:
        log.warning("not used: class %s", name)
    if images.merged:
        several = counted(
            len(images.merged),
            "class has images of several folders, which are",
            "classes have images of several folders, which are",
        )
        log.warning("%s taken as one class: %s", several, few(images.merged))


def refusal(bad: list[BadRow], parts: dict[str, Part], settings: Data) -> ValueError:
    groups: dict[tuple[str, str], list[BadRow]] = {}
    for one in bad:
        groups.setdefault((one.part, one.reason), []).append(one)
    lines = []
    for (part, reason), rows in groups.items():
        named = few([f"{one.row} ({one.called})" if one.called else str(one.row) for one in rows])
        causes = list(dict.fromkeys(one.detail for one in rows if reason == UNDECODABLE and one.detail))
        why = f": {', '.join(causes[:3])}{', and others' if len(causes) > 3 else ''}" if causes else ""
        lines.append(f"{part} part, {reason}: {len(rows)} ({'row' if len(rows) == 1 else 'rows'} {named}){why}")
    return ValueError(
        f"{len(bad)} of {_rows(parts)} rows of {where(settings)} cannot be used: {'; '.join(lines)}; "
        "correct them, or leave them out with data.on_bad=drop"
    )


def tell_dropped(log: logging.Logger, bad: list[BadRow], parts: dict[str, Part], settings: Data) -> None:
    if bad:
        log.warning("dropped %d of %d rows of %s:", len(bad), _rows(parts), where(settings))
    for one in bad[:SHOWN]:
        log.warning("dropped row %d of the %s part: %s", one.row, one.part, one)
    if len(bad) > SHOWN:
        log.warning("dropped %d more; the datasets table names them all", len(bad) - SHOWN)


def tell_seen(log: logging.Logger, seen: Sequence[Seen], settings: Data) -> None:
    """Say what of the files the pixels do not show; refuse values of which 8 bits would keep next to nothing."""
    deep = [one.highest for one in seen if one.highest is not None]
    levels = (max(deep, default=0) >> 8) + 1
    if deep and levels <= LEVELS:
        raise ValueError(
            f"{where(settings)}: {counted(len(deep), 'image')} with 16 bits per channel have values up to "
            f"{max(deep)} of 65535, of which 8 bits would keep {levels} levels; scale the values to 0..65535, "
            "or save the images with 8 bits"
        )
    if deep:
        log.log(
            logging.INFO if levels > 64 else logging.WARNING,
            "%s with 16 bits per channel: the upper 8 bits are kept, %d levels",
            counted(len(deep), "image"),
            levels,
        )
    if several := sum(one.several_frames for one in seen):
        log.warning("%s of several frames: the first frame of each is used", counted(several, "file"))
    if turned := sum(one.turned for one in seen):
        log.info("%s turned upright, as the EXIF orientation says", counted(turned, "image"))
