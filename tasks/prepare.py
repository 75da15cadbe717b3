"""The stage prepare: split a data set, decode its images once into one array, check them, and count them."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from statistics import median
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import ImageFile

from tasks.caching.stage import stage
from tasks.datasets import open_source
from tasks.datasets._arrays import SPLITS
from tasks.datasets._decode import Bad, DecodedImage, EncodedImage, Traits, decode_all
from tasks.datasets._find import resolve
from tasks.datasets._label import label
from tasks.datasets._room import refuse_too_large
from tasks.datasets._split import plan, roles
from tasks.datasets._statistics import chunks, duplicates, moments
from tasks.datasets._told import (
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
from tasks.datasets._words import counted, few, shown
from tasks.machine.space import reserve
from tasks.records import Artifact, Data, Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.datasets import Part, Source
    from tasks.datasets._split import LabelledRows

SAMPLED_SIZES = 256
"""The sizes of so many more images are looked at to recommend an image size."""


@dataclass
class Pixels:
    """Decoded images, in the order of decoding, with three channels until it is known that all are greyscale."""

    images: np.ndarray
    """uint8, (images to decode, height, width, 3), read-only. Empty until all are decoded."""
    side: int = 0
    """Height and width of each image in pixels, or 0 as long as none is decoded."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """Label and split of each image, the split as its position in `SPLITS`."""
    digests: list[bytes] = field(default_factory=list)
    """Hash of the pixels of each image."""
    names: list[str] = field(default_factory=list)
    """The name that the source gives to each image. All are empty if it has no names."""
    traits: list[Traits] = field(default_factory=list)
    colour: bool = False
    """Whether any of the images has colour."""


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


def prepare(work: Work, settings: Data) -> Prepared:
    """Decode, split, check and count the images that `settings` names.

    Splits and limits are drawn from the labels before any image is decoded. Only rows that are used are decoded.

    Raises
    ------
    ValueError
        If the source is absent or damaged; if rows are bad and `on_bad` is "refuse"; if images differ in size or are
        not square and no `image_size` is given; if a split is empty or has training images of one class alone.
    """
    data_set = _open(work, settings)
    settings, source, parts = data_set.settings, data_set.source, data_set.parts
    usable, bad = _check_labels(parts, len(source.classes))
    if bad and settings.on_bad == "refuse" and not all(len(labels) for _, labels in usable.values()):
        raise refusal(bad, parts, settings)
    refuse_absent(source.images, usable, settings)
    chosen = plan(usable, settings, work.log)
    refuse_too_large(settings, sum(len(rows) for _, rows in chosen.values()), work.store.root)
    # This is Pillow's default. Some libraries change it when they are imported.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with work.store.temporary() as folder:
        pixels, undecoded = _decode(work, folder, data_set, chosen)
        bad = sorted(bad + undecoded, key=lambda bad_row: (SPLITS.index(bad_row.part), bad_row.row))
        if bad and settings.on_bad == "refuse":
            raise refusal(bad, parts, settings)
        tell_dropped(work.log, bad, parts, settings)
        tell_traits(work.log, pixels.traits, settings)
        return _finish(work, folder, data_set, pixels, bad)


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
    """Return the parts that have labels. Test images are often published without, as null or -1."""
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


def _decode(
    work: Work, folder: Path, data_set: DataSet, chosen: dict[str, tuple[str, np.ndarray]]
) -> tuple[Pixels, list[BadRow]]:
    """Decode the chosen rows of each split into a file in `folder`, and return the images and the bad rows."""
    split_of: dict[str, dict[int, int]] = {part: {} for part in data_set.parts}
    for split, (part, rows) in chosen.items():
        split_of[part].update(dict.fromkeys(rows.tolist(), SPLITS.index(split)))
    total = sum(len(rows) for rows in split_of.values())
    pixels = Pixels(np.empty(0))
    bad = []
    reported = time.monotonic()
    encoded = _encoded_images(data_set.parts, split_of)
    decoded = decode_all(encoded, data_set.settings.image_size, data_set.settings.resize)
    path = folder / "decoded.npy"
    with path.open("wb") as file:
        for number, image in enumerate(decoded, 1):
            if isinstance(image.pixels, Bad):
                reason, detail = image.pixels.args
                bad.append(BadRow(image.part, image.row, reason, detail, image.name))
            if time.monotonic() - reported > 1 or number == total:
                work.progress(number, total, _progress_text(number, total, len(bad)))
                reported = time.monotonic()
            if isinstance(image.pixels, Bad):
                continue
            height, width, *_ = image.pixels.shape
            if height != width or pixels.side not in (0, height):
                raise _sizes_differ(pixels, image, decoded)
            if not pixels.rows:
                pixels.side = height
                _begin(file, work, (total, height, width, 3))
            class_index = data_set.parts[image.part].labels[image.row] or 0
            _append(file, pixels, image, (class_index, split_of[image.part][image.row]))
    if pixels.rows:
        pixels.images = np.load(path, mmap_mode="r")
    return pixels, bad


def _append(file: IO[bytes], pixels: Pixels, image: DecodedImage, label_and_split: tuple[int, int]) -> None:
    """Write a decoded image to the file, in three channels, and note its label, split, digest, name and traits."""
    assert isinstance(image.pixels, np.ndarray)
    is_colour = image.pixels.ndim == 3
    with_channels = image.pixels if is_colour else image.pixels[..., None]
    file.write(np.broadcast_to(with_channels, (pixels.side, pixels.side, 3)).tobytes())
    pixels.rows.append(label_and_split)
    pixels.digests.append(image.digest)
    pixels.names.append(image.name)
    pixels.traits.append(image.traits)
    pixels.colour |= is_colour


def _progress_text(number: int, total: int, failed: int) -> str:
    """Return in words how many of all images are decoded, and how many cannot be."""
    return f"decoded {number - failed} of {total} images" + (f", {failed} cannot be decoded" if failed else "")


def _begin(file: IO[bytes], work: Work, shape: tuple[int, ...]) -> None:
    """Write the header of an npy file of uint8, and reserve the room for the whole file.

    The images are then written to the file and not to a memory map of it: with a map, a full or broken disk would end
    the process with a signal (SIGBUS).
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    reserve(file, work.store.root.parent, len(header.getvalue()) + prod(shape), f"{shape[0]} decoded images")
    file.write(header.getvalue())


def _encoded_images(parts: dict[str, Part], split_of: dict[str, dict[int, int]]) -> Iterator[EncodedImage]:
    """Yield the images of the rows that `split_of` has, part by part, in the order of their rows."""
    for part, split_of_row in split_of.items():
        rows = sorted(split_of_row)
        for row, (image, name) in zip(rows, parts[part].read(rows), strict=True):
            yield EncodedImage(image, part, row, name)


def _sizes_differ(pixels: Pixels, image: DecodedImage, following: Iterator[DecodedImage]) -> ValueError:
    """Return the error for an image that is not square, or not of the size of those before it.

    It recommends the median of the shorter sides of all images so far and of some that follow.
    """
    sizes = [(pixels.side, pixels.side)] * len(pixels.rows)
    sampled = (image, *islice(following, SAMPLED_SIZES))
    sizes += [np.shape(other.pixels)[:2] for other in sampled if not isinstance(other.pixels, Bad)]
    median_side = int(median(min(size) for size in sizes))
    assert isinstance(image.pixels, np.ndarray)
    height, width = image.pixels.shape[:2]
    description = f"{width}x{height} pixels in row {image.row} of the {image.part} part"
    if image.name:
        description += f" ({image.name})"
    if pixels.rows:
        description = f"{pixels.side}x{pixels.side} and {description}"
    return ValueError(
        f"images must be square and of one size, or be made so: there are {description}; set data.image_size, "
        f"e.g. data.image_size={median_side}, the median shorter side of {len(sizes)} images"
    )


def _finish(work: Work, folder: Path, data_set: DataSet, pixels: Pixels, bad: list[BadRow]) -> Prepared:
    """Check, count, measure and store the decoded images."""
    settings, classes = data_set.settings, data_set.source.classes
    labels, splits = np.array(pixels.rows, dtype=np.int64).reshape(-1, 2).T
    class_rows = np.stack(
        [np.bincount(labels[splits == number], minlength=len(classes)) for number in range(len(SPLITS))]
    )
    _check_splits(work, settings, classes, class_rows)
    images = _compact(work, folder, pixels)
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
    work.log.info(
        "%s: %d images of %dx%d pixels, %d channels: %s",
        data_set.name,
        rows,
        side,
        side,
        channels,
        ", ".join(f"{row['rows']} {row['split']}" for row in table),
    )
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
    images, classes = data_set.source.images, data_set.source.classes
    layout = images.layout
    if images.merged_classes:
        layout += f"; merged: {few(images.merged_classes, SHOWN)}"
    within, across = duplicates_of_splits
    part_of = roles(data_set.parts)
    table: list[dict[str, Any]] = []
    for number, split in enumerate(SPLITS):
        counts = class_rows[number]
        if not counts.any():
            continue
        dropped = [bad_row for bad_row in bad if bad_row.part == part_of.get(split)]
        table.append(
            {
                "source": data_set.settings.source,
                "path": data_set.settings.path or None,
                "label": data_set.name,
                "split": split,
                "rows": int(counts.sum()),
                "classes": len(classes),
                "class_rows_min": int(counts.min()),
                "class_rows_max": int(counts.max()),
                "class_rows": counts.tolist(),
                "class_names": classes,
                "duplicates_within": within[number],
                "duplicates_across": across[number],
                "dropped": len(dropped),
                "dropped_rows": [bad_row.row for bad_row in dropped],
                "dropped_reasons": [str(bad_row) for bad_row in dropped],
                "layout": layout,
                "left_out": [
                    *(item.description for item in images.unused),
                    *(f"class {name}" for name in images.lost_classes),
                ],
            }
        )
        if across[number]:
            work.log.warning("%d %s images equal an image of an earlier split", across[number], split)
    return table


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


def _compact(work: Work, folder: Path, pixels: Pixels) -> np.ndarray:
    """Write images.npy: without the room of images that were dropped, and with one channel if all are greyscale."""
    path = folder / "images.npy"
    count = len(pixels.rows)
    if pixels.colour and count == len(pixels.images):
        (folder / "decoded.npy").rename(path)
        return pixels.images
    shape = (count, *pixels.images.shape[1:3], 3 if pixels.colour else 1)
    with path.open("wb") as file:
        _begin(file, work, shape)
        for chunk in chunks(pixels.images, count):
            file.write(pixels.images[chunk, ..., : shape[3]].tobytes())
    return np.load(path, mmap_mode="r")


prepare_task = stage(
    lambda inputs: "prepare",
    libraries=("pillow", "numpy", "pyarrow", "scikit-learn", "torchvision"),
    modules=lambda inputs: (f"tasks.datasets.{resolve(inputs['settings']).source}",),
    extra=lambda inputs: {"content of the source": open_source(inputs["settings"]).fingerprint()},
)(prepare)
