"""The stage prepare: split a data set, decode its images once into one array, check them, and count them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ImageFile

from tasks.caching.stage import stage
from tasks.datasets import open_source
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decoded import compact, decode_rows
from tasks.datasets._find import resolve
from tasks.datasets._label import label
from tasks.datasets._notes import (
    SHOWN,
    BadRow,
    refusal,
    refuse_absent,
    refuse_lost,
    tell_dropped,
    tell_traits,
    tell_unused,
    where,
)
from tasks.datasets._room import refuse_too_large
from tasks.datasets._split import plan, roles
from tasks.datasets._statistics import duplicates, moments
from tasks.datasets._words import counted, few, shown
from tasks.records import Artifact, Data, Preparation, Prepared

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.datasets._decoded import Pixels
    from tasks.datasets._source import Part, Source
    from tasks.datasets._split import LabelledRows


@dataclass(frozen=True)
class DataSet:
    """A data set that is being prepared."""

    settings: Data
    """The settings with the source's name in place of "auto"."""
    source: Source
    parts: dict[str, Part]
    """The parts of the source that have labels."""
    name: str
    """What to call the data set in tables and reports."""


def prepare(work: Work, settings: Data, preparation: Preparation | None = None) -> Prepared:
    """Decode, split, check and count the images that `settings` names.

    `preparation` is what was found out about a given model, where the study has one: its size of images, mean and
    standard deviation take the place of those that the settings leave open.

    Splits and limits are drawn from the labels before any image is decoded. Only rows that are used are decoded.

    Raises
    ------
    ValueError
        If the source is absent or damaged; if rows are bad and `on_bad` is "refuse"; if images differ in size or are
        not square and no `image_size` is given; if a split is empty or has training images of one class alone.
    """
    data_set = _open(work, settings if preparation is None else _prepared_for(settings, preparation))
    settings = data_set.settings
    parts = data_set.parts
    usable, bad = _check_labels(parts, len(data_set.source.classes))
    if bad and settings.on_bad == "refuse" and not all(len(labels) for _, labels in usable.values()):
        raise refusal(bad, parts, settings)
    refuse_absent(data_set.source.images, usable, settings)
    chosen = plan(usable, settings, work.log)
    refuse_too_large(settings, sum(len(rows) for _, rows in chosen.values()), work.store.root)
    # This is Pillow's default. Some libraries change it when they are imported.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with work.store.temporary() as folder:
        pixels, undecoded = decode_rows(work, folder, parts, chosen, settings=settings)
        bad = sorted(bad + undecoded, key=lambda bad_row: (SPLITS.index(bad_row.part), bad_row.row))
        if bad and settings.on_bad == "refuse":
            raise refusal(bad, parts, settings)
        tell_dropped(work.log, bad, parts, settings)
        tell_traits(work.log, pixels.traits, settings)
        return _finish(work, folder, data_set, pixels, bad)


def _prepared_for(settings: Data, preparation: Preparation) -> Data:
    """Return the settings with what they leave open taken from a given model's preparation."""
    left_open: dict[str, object] = {}
    if settings.image_size is None:
        left_open |= {"image_size": preparation.image_size, "resize": preparation.resize}
    if settings.mean is None:
        left_open |= {"mean": preparation.mean, "std": preparation.std}
    # The values are not validated again: a model that takes pixels from 0 to 255 has a mean of 0, which no user writes.
    return settings.model_copy(update=left_open)


def _open(work: Work, settings: Data) -> DataSet:
    """Open the source that the settings name or that is found at data.path, and log how it was read."""
    resolved = resolve(settings)
    if resolved != settings:
        reason = f"found at data.path = {shown(settings.path)}" if settings.path else "as no data.path is given"
        work.log.info("data.source: %s, %s", resolved.source, reason)
    source = open_source(resolved)
    work.log.info("layout: %s", source.images.layout)
    refuse_lost(source.images, resolved)
    tell_unused(work.log, source.images)
    if len(source.classes) < 2:
        raise ValueError(f"{where(resolved)} has {len(source.classes)} class; a classifier needs at least two")
    return DataSet(resolved, source, _labelled_parts(source, work), label(resolved, source))


def _labelled_parts(source: Source, work: Work) -> dict[str, Part]:
    """Return the source's parts without those whose images have no labels, which the log names.

    Test images are often published without labels, as null or -1. Training images without labels are refused later.
    """
    parts: dict[str, Part] = {}
    for name in (split for split in SPLITS if split in source.parts):
        part = source.parts[name]
        if name != "train" and len(source.parts) > 1 and set(part.labels) <= {None, -1}:
            work.log.warning("%s part: none of its %d rows has a label; left out", name, part.rows)
        else:
            parts[name] = part
    return parts


def _check_labels(parts: dict[str, Part], classes: int) -> tuple[dict[str, LabelledRows], list[BadRow]]:
    """Return, for each part, the rows whose labels are good; and the rows of all parts whose labels are bad."""
    usable = {}
    bad = []
    for name, part in parts.items():
        good = {row: label for row, label in enumerate(part.labels) if label is not None and 0 <= label < classes}
        usable[name] = np.array(list(good), dtype=np.int64), np.array(list(good.values()), dtype=np.int64)
        wrong = [row for row in range(part.rows) if row not in good]
        # Rows with bad labels are read for the names of their images alone.
        for row, (_, image_name) in zip(wrong, part.read(wrong) if wrong else (), strict=True):
            reason, detail = "null label", ""
            if part.labels[row] is not None:
                reason, detail = "label out of range", f"{part.labels[row]}, not 0 to {classes - 1}"
            bad.append(BadRow(name, row, reason, detail, image_name))
    return usable, bad


def _finish(work: Work, folder: Path, data_set: DataSet, pixels: Pixels, bad: list[BadRow]) -> Prepared:
    """Check, count, measure and store the decoded images."""
    settings = data_set.settings
    classes = data_set.source.classes
    labels, splits = np.array(pixels.rows, dtype=np.int64).reshape(-1, 2).T
    class_rows = np.stack(
        [np.bincount(labels[splits == number], minlength=len(classes)) for number in range(len(SPLITS))]
    )
    _check_splits(work, settings, classes, class_rows)
    images = compact(work, folder, pixels)
    rows, side, _, channels = images.shape
    mean, std = _normalisation(work, settings, images, np.flatnonzero(splits == SPLITS.index("train")))
    stored = work.store.put(folder / "images.npy", "npy")
    common = {
        "image_size": side,
        "channels": channels,
        "images_path": stored.path,
        "images_sha256": stored.sha256,
        "images_size_bytes": stored.size_bytes,
    }
    table = [common | row for row in _table(work, data_set, class_rows, duplicates(pixels.digests, splits), bad)]
    splits_text = ", ".join(f"{row['rows']} {row['split']}" for row in table)
    description = f"{rows} images of {side}x{side} pixels, {channels} channels"
    work.log.info("%s: %s: %s", data_set.name, description, splits_text)
    work.log.info("%d classes: %s", len(classes), few(classes, SHOWN))
    train_rows, validation_rows, test_rows = class_rows.sum(axis=1).tolist()
    return Prepared(
        images=stored,
        labels=_put(work, folder / "labels.npy", labels),
        splits=_put(work, folder / "splits.npy", splits.astype(np.uint8)),
        names=_put_names(work, folder / "names.json", pixels.names),
        classes=classes,
        image_size=side,
        channels=channels,
        mean=mean,
        std=std,
        train_rows=train_rows,
        validation_rows=validation_rows,
        test_rows=test_rows,
        tables={"datasets": work.rows("datasets", table)},
    )


def _check_splits(work: Work, settings: Data, classes: tuple[str, ...], class_rows: np.ndarray) -> None:
    """Refuse splits that are empty or too small, and warn about classes without images in a split.

    Parameters
    ----------
    class_rows
        Number of images per split and class, (splits, classes).
    """
    for split, counts in zip(SPLITS, class_rows, strict=True):
        # With a test fraction of 1, nothing is trained.
        if split != "test" and settings.test_fraction == 1 and not counts.any():
            continue
        missing = [name for name, count in zip(classes, counts, strict=True) if not count]
        present = len(classes) - len(missing)
        if present < (2 if split == "train" else 1):
            raise ValueError(
                f"{where(settings)}: the {split} split has {counts.sum()} images of {present} classes, which is too few"
            )
        if missing:
            consequence = "" if split == "train" else ", so that nothing is measured of them"
            names = few(missing, SHOWN)
            number = counted(len(missing), "class", "classes")
            work.log.warning("%s: no image of %s: %s%s", split, number, names, consequence)


def _table(
    work: Work,
    data_set: DataSet,
    class_rows: np.ndarray,
    duplicates_of_splits: tuple[list[int], list[int]],
    bad: list[BadRow],
) -> list[dict[str, Any]]:
    """Return a row of the table `datasets` per split that has images, without the columns on the stored array.

    Parameters
    ----------
    class_rows
        Number of images per split and class, (splits, classes).
    duplicates_of_splits
        Number of duplicates per split, as `duplicates` returns it.
    """
    within, across = duplicates_of_splits
    part_of = roles(data_set.parts)
    table: list[dict[str, Any]] = []
    for number, split in enumerate(SPLITS):
        counts = class_rows[number]
        if not counts.any():
            continue
        dropped = [bad_row for bad_row in bad if bad_row.part == part_of.get(split)]
        row = {
            "split": split,
            "rows": int(counts.sum()),
            "class_rows_min": int(counts.min()),
            "class_rows_max": int(counts.max()),
            "class_rows": counts.tolist(),
            "duplicates_within": within[number],
            "duplicates_across": across[number],
            "dropped": len(dropped),
            "dropped_rows": [bad_row.row for bad_row in dropped],
            "dropped_reasons": [str(bad_row) for bad_row in dropped],
        }
        table.append(row | _source_columns(data_set))
        if across[number]:
            work.log.warning("%d %s images equal an image of an earlier split", across[number], split)
    return table


def _source_columns(data_set: DataSet) -> dict[str, Any]:
    """Return the columns of the table `datasets` that are the same for all splits of a data set."""
    images = data_set.source.images
    layout = images.layout
    if images.merged_classes:
        layout += f"; merged: {few(images.merged_classes, SHOWN)}"
    return {
        "source": data_set.settings.source,
        "path": data_set.settings.path or None,
        "label": data_set.name,
        "classes": len(images.classes),
        "class_names": images.classes,
        "layout": layout,
        "left_out": [
            *(item.description for item in images.unused),
            *(f"class {name}" for name in images.lost_classes),
        ],
    }


def _normalisation(
    work: Work, settings: Data, images: np.ndarray, train: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation per channel: those of the settings, or of the training images.

    Parameters
    ----------
    train
        Row numbers of the training images.
    """
    channels = images.shape[3]
    if settings.mean is not None and settings.std is not None:
        if len(settings.mean) not in (1, channels):
            raise ValueError(f"data.mean, data.std: {len(settings.mean)} values for images of {channels} channels")
        repeats = channels // len(settings.mean)
        return settings.mean * repeats, settings.std * repeats
    mean, std = moments(images, train)
    if not all(std):
        work.log.warning("a channel has one value in all training images; its std is taken as 1")
    return tuple(mean), tuple(value or 1.0 for value in std)


def _put(work: Work, path: Path, array: np.ndarray) -> Artifact:
    """Store an array."""
    np.save(path, np.ascontiguousarray(array))
    return work.store.put(path, "npy")


def _put_names(work: Work, path: Path, names: list[str]) -> Artifact | None:
    """Store the images' names as a JSON list. Return None if the source has no names."""
    if not any(names):
        return None
    path.write_text(json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8")
    return work.store.put(path, "json")


prepare_task = stage(
    lambda inputs: "prepare",
    libraries=("pillow", "numpy", "pyarrow", "scikit-learn", "torchvision"),
    modules=lambda inputs: (f"tasks.datasets.{resolve(inputs['settings']).source}",),
    extra=lambda inputs: {"content of the source": open_source(inputs["settings"]).fingerprint()},
)(prepare)
