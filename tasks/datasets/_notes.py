"""Messages about a data set that is being prepared: what is not used and which rows are bad, logged or refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.datasets._words import counted, few, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.datasets._decode import Traits
    from tasks.datasets._source import Images, Part
    from tasks.datasets._split import LabelledRows
    from tasks.records import Data

SHOWN = 20
"""A message names at most this many rows of one kind, or classes."""
FEWEST_LEVELS = 16
"""Images with 16 bits per channel are refused if no more than this many grey levels are left in 8 bits.

A camera's 12 bits, stored in 16, have 4,095 for their highest value: 16 levels are left of them.
"""
UNDECODABLE = "undecodable image"
"""The only reason whose detail, the cause, differs between images."""
LOST_SHARE = 0.01
"""A data set is refused if more than this share of its images is not used."""


class BadRow(NamedTuple):
    """A row that cannot be used."""

    part: str
    row: int
    reason: str
    detail: str
    """What is known beyond the reason, or an empty text."""
    name: str
    """The name that the source gives to the image, or an empty text."""

    @property
    def telling_name(self) -> str:
        """The name, or an empty text if the name says no more than the row's number."""
        return "" if self.name.endswith(f".parquet row {self.row}") else self.name

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        name = f" [{self.telling_name}]" if self.telling_name else ""
        return f"{self.reason}{detail}{name}"


def where(settings: Data) -> str:
    """Return the source and the path of a data set, for a message."""
    return f"{settings.source} {shown(settings.path)}".strip()


def _count_rows(parts: dict[str, Part]) -> int:
    """Return the number of rows of all parts."""
    return sum(part.rows for part in parts.values())


def refuse_lost(images: Images, settings: Data) -> None:
    """Refuse a data set that loses a class or too many images, unless the user allows that.

    Raises
    ------
    ValueError
        With what would be lost, and how the source was read.
    """
    lost_images = sum(item.lost_images for item in images.unused)
    all_images = _count_rows(images.parts) + lost_images
    if settings.on_bad == "drop" or not (images.lost_classes or lost_images > LOST_SHARE * all_images):
        return
    losses = []
    if images.lost_classes:
        losses.append(_named_classes(images.lost_classes))
    if lost_images:
        descriptions = "; ".join(item.description for item in images.unused if item.lost_images)
        losses.append(f"{lost_images} of {all_images} images: {descriptions}")
    raise _loss_refused(", and ".join(losses), images, settings)


def _named_classes(classes: Sequence[str]) -> str:
    """Return the names of classes for a message."""
    return f"the {'class' if len(classes) == 1 else 'classes'} {few(classes, SHOWN)}"


def _loss_refused(losses: str, images: Images, settings: Data) -> ValueError:
    """Return the error that refuses to leave out the things that `losses` describes."""
    return ValueError(
        f"{where(settings)}: these would not be used: {losses}; correct this, or leave them out with "
        f"data.on_bad=drop (read as: {images.layout})"
    )


def refuse_absent(images: Images, usable: Mapping[str, LabelledRows], settings: Data) -> None:
    """Refuse a class without images, or without training images, unless the user allows that or nothing is trained.

    Parameters
    ----------
    usable
        For each part, the rows whose labels are good, before any of them are left out by a limit.

    Raises
    ------
    ValueError
        With the classes, and how the source was read.
    """
    if settings.on_bad == "drop" or settings.test_fraction == 1:
        return
    rows_per_class = {part: np.bincount(labels, minlength=len(images.classes)) for part, (_, labels) in usable.items()}
    in_all_parts = np.sum(list(rows_per_class.values()), axis=0)
    in_training = rows_per_class.get("train", in_all_parts)
    absent = []
    for index, name in enumerate(images.classes):
        if not in_training[index]:
            elsewhere = in_all_parts[index]
            reason = f"no training image, {elsewhere} in other parts" if elsewhere else "no image"
            absent.append(f"{name} ({reason})")
    if absent:
        raise _loss_refused(_named_classes(absent), images, settings)


def tell_unused(log: logging.Logger, images: Images) -> None:
    """Log what of a source is not used, and which classes come from several folders."""
    for item in images.unused:
        log.log(logging.INFO if item.harmless else logging.WARNING, "not used: %s", item.description)
    for name in images.lost_classes:
        log.warning("not used: class %s", name)
    if images.merged_classes:
        several = counted(
            len(images.merged_classes),
            "class has images of several folders, which are",
            "classes have images of several folders, which are",
        )
        log.warning("%s taken as one class: %s", several, few(images.merged_classes, SHOWN))


def refusal(bad: list[BadRow], parts: dict[str, Part], settings: Data) -> ValueError:
    """Return the error that names the bad rows of all parts, grouped by part and reason."""
    groups: dict[tuple[str, str], list[BadRow]] = {}
    for bad_row in bad:
        groups.setdefault((bad_row.part, bad_row.reason), []).append(bad_row)
    descriptions = [f"{part} part, {_described(reason, rows)}" for (part, reason), rows in groups.items()]
    return ValueError(
        f"{len(bad)} of {_count_rows(parts)} rows of {where(settings)} cannot be used: {'; '.join(descriptions)}; "
        "correct them, or leave them out with data.on_bad=drop"
    )


def _described(reason: str, rows: list[BadRow]) -> str:
    """Return the reason, number, names and causes of rows that are bad for the same reason."""
    names = [f"{row.row} ({row.telling_name})" if row.telling_name else str(row.row) for row in rows]
    causes = list(dict.fromkeys(row.detail for row in rows if reason == UNDECODABLE and row.detail))
    cause = f": {', '.join(causes[:3])}{', and others' if len(causes) > 3 else ''}" if causes else ""
    return f"{reason}: {len(rows)} ({'row' if len(rows) == 1 else 'rows'} {few(names, SHOWN)}){cause}"


def tell_dropped(log: logging.Logger, bad: list[BadRow], parts: dict[str, Part], settings: Data) -> None:
    """Log which bad rows are left out."""
    if bad:
        log.warning("dropped %d of %d rows of %s:", len(bad), _count_rows(parts), where(settings))
    for bad_row in bad[:SHOWN]:
        log.warning("dropped row %d of the %s part: %s", bad_row.row, bad_row.part, bad_row)
    if len(bad) > SHOWN:
        log.warning("dropped %d more; the datasets table names them all", len(bad) - SHOWN)


def tell_traits(log: logging.Logger, traits: Sequence[Traits], settings: Data) -> None:
    """Log what the decoded pixels do not show of their files.

    Raises
    ------
    ValueError
        If images have 16 bits per channel, but values so low that next to nothing is left in 8 bits.
    """
    highest_values = [image.highest for image in traits if image.highest is not None]
    if highest_values:
        highest = max(highest_values)
        levels = (highest >> 8) + 1
        images = counted(len(highest_values), "image")
        if levels <= FEWEST_LEVELS:
            raise ValueError(
                f"{where(settings)}: {images} with 16 bits per channel have values up to "
                f"{highest} of 65535, of which 8 bits would keep {levels} levels; scale the values to 0..65535, "
                "or save the images with 8 bits"
            )
        level = logging.INFO if levels > 64 else logging.WARNING
        log.log(level, "%s with 16 bits per channel: the upper 8 bits are kept, %d levels", images, levels)
    several_frames = sum(image.several_frames for image in traits)
    if several_frames:
        log.warning("%s of several frames: the first frame of each is used", counted(several_frames, "file"))
    turned = sum(image.turned for image in traits)
    if turned:
        log.info("%s turned upright, as the EXIF orientation says", counted(turned, "image"))
