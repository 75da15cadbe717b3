"""Stage 1, prepare: decode a source's images once into a memory-mapped array, split, checked and counted."""

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
from tasks.datasets._decode import Bad, Done, Job, Seen, decode_all
from tasks.datasets._find import resolve
from tasks.datasets._label import label
from tasks.datasets._room import refuse_too_large
from tasks.datasets._split import plan, roles
from tasks.datasets._statistics import chunks, duplicates, moments
from tasks.datasets._told import (
    BadRow,
    few,
    refusal,
    refuse_absent,
    refuse_lost,
    tell_dropped,
    tell_left,
    tell_seen,
    where,
)
from tasks.datasets._words import counted, shown
from tasks.machine.space import reserve
from tasks.records import Artifact, Data, Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.caching.work import Work
    from tasks.datasets import Part, Source

# images whose sizes are looked at to recommend one
SIZES = 256


@dataclass
class Pixels:
    """Decoded images, in the order of decoding; of three channels until it is known that all are greyscale."""

    images: np.ndarray
    """uint8 (images that were to be decoded, height, width, 3), read-only; empty until all are decoded."""
    side: int = 0
    """Height and width in pixels; 0: none is decoded yet."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """(label, split) of each."""
    digests: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """What the source calls each; empty where it has no names."""
    seen: list[Seen] = field(default_factory=list)
    colour: bool = False


def prepare(work: Work, settings: Data) -> Prepared:
    """Decode, split, check and count the images that `settings` names.

    Splits and limits are drawn from the labels, before an image is decoded; only rows that are used are decoded.

    Raises
    ------
    ValueError
        If the source is not there or not what it should be; if rows are bad and `on_bad` is "refuse"; if images differ
        in size or are not square and no `image_size` is given; if a split is empty or one class alone is trained.
    """
    found = resolve(settings)
    if found != settings:
        what = f"found at data.path = {shown(settings.path)}" if settings.path else "as no data.path is given"
        work.log.info("data.source: %s, %s", found.source, what)
    settings, source = found, open_source(found)
    work.log.info("layout: %s", source.images.layout)
    refuse_lost(source.images, settings)
    tell_left(work.log, source.images)
    if len(source.classes) < 2:
        raise ValueError(f"{where(settings)} has {len(source.classes)} class; a classifier needs at least two")
    parts = _labelled(source, work)
    usable, bad = _check_labels(parts, len(source.classes))
    if bad and settings.on_bad == "refuse" and not all(len(labels) for _, labels in usable.values()):
        raise refusal(bad, parts, settings)
    refuse_absent(source.images, usable, settings)
    chosen = plan(usable, settings, work.log)
    refuse_too_large(settings, sum(len(rows) for _, rows in chosen.values()), work.store.root)
    # Pillow's default, which other libraries are known to change
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with work.store.temporary() as folder:
        pixels, undecoded = _decode(work, folder, parts, chosen, settings)
        bad = sorted(bad + undecoded, key=lambda one: (SPLITS.index(one.part), one.row))
        if bad and settings.on_bad == "refuse":
            raise refusal(bad, parts, settings)
        tell_dropped(work.log, bad, parts, settings)
        tell_seen(work.log, pixels.seen, settings)
        dropped = {split: [one for one in bad if one.part == part] for split, part in roles(parts).items()}
        called = label(settings, source)
        return _finish(work, settings, folder, pixels, called=called, source=source, dropped=dropped)


def _labelled(source: Source, work: Work) -> dict[str, Part]:
    """Parts that have labels: test images are often published without, as null or -1."""
    parts = {}
    for name in (split for split in SPLITS if split in source.parts):
        part = source.parts[name]
        if name != "train" and len(source.parts) > 1 and set(part.labels) <= {None, -1}:
            work.log.warning("%s part: none of its %d rows has a label; left out", name, part.rows)
        else:
            parts[name] = part
    return parts


def _check_labels(
    parts: dict[str, Part], classes: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[BadRow]]:
    """Part -> (rows, labels) of the good ones; and the bad ones."""
    usable, bad = {}, []
    for name, part in parts.items():
        good = {row: label for row, label in enumerate(part.labels) if label is not None and 0 <= label < classes}
        usable[name] = np.array(list(good), dtype=np.int64), np.array(list(good.values()), dtype=np.int64)
        wrong = [row for row in range(part.rows) if row not in good]
        for row, (_, called) in zip(wrong, part.read(wrong) if wrong else (), strict=True):
            if part.labels[row] is None:
                bad.append(BadRow(name, row, "null label", "", called))
            else:
                bad.append(
                    BadRow(name, row, "label out of range", f"{part.labels[row]}, not 0 to {classes - 1}", called)
                )
    return usable, bad


def _decode(
    work: Work, folder: Path, parts: dict[str, Part], chosen: dict[str, tuple[str, np.ndarray]], settings: Data
) -> tuple[Pixels, list[BadRow]]:
    split_of: dict[str, dict[int, int]] = {part: {} for part in parts}
    for split, (part, rows) in chosen.items():
        split_of[part].update(dict.fromkeys(rows.tolist(), SPLITS.index(split)))
    total = sum(len(rows) for rows in split_of.values())
    made, bad, reported = Pixels(np.empty(0)), [], time.monotonic()
    decoded = decode_all(_jobs(parts, split_of), settings.image_size, settings.resize)
    path = folder / "decoded.npy"
    with path.open("wb") as file:
        for number, one in enumerate(decoded, 1):
            if isinstance(one.pixels, Bad):
                reason, detail = one.pixels.args
                bad.append(BadRow(one.part, one.row, reason, detail, one.name))
            if time.monotonic() - reported > 1 or number == total:
                work.progress(number, total, _so_far(number, total, len(bad)))
                reported = time.monotonic()
            if isinstance(one.pixels, Bad):
                continue
            height, width, *channels = one.pixels.shape
            if height != width or made.side not in (0, height):
                raise _sizes_differ(made, one, decoded)
            if not made.rows:
                made.side = height
                _begin(file, work, (total, height, width, 3))
            file.write(np.broadcast_to(one.pixels if channels else one.pixels[..., None], (height, width, 3)).tobytes())
            made.rows.append((parts[one.part].labels[one.row] or 0, split_of[one.part][one.row]))
            made.digests.append(one.digest)
            made.names.append(one.name)
            made.seen.append(one.seen)
            made.colour |= bool(channels)
    if made.rows:
        made.images = np.load(path, mmap_mode="r")
    return made, bad


def _so_far(number: int, total: int, failed: int) -> str:
    """How many of all images are decoded, and how many cannot be."""
    return f"decoded {number - failed} of {total} images" + (f", {failed} cannot be decoded" if failed else "")


def _begin(file: IO[bytes], work: Work, shape: tuple[int, ...]) -> None:
    """Begin an npy file of uint8 with its header, and reserve the room for all of it.

    Images are written to it, not to a memory map of it, where a full disk or a broken one would end the process
    (SIGBUS).
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    reserve(file, work.store.root.parent, len(header.getvalue()) + prod(shape), f"{shape[0]} decoded images")
    file.write(header.getvalue())


def _jobs(parts: dict[str, Part], split_of: dict[str, dict[int, int]]) -> Iterator[Job]:
    for part, wanted in split_of.items():
        rows = sorted(wanted)
        for row, (image, name) in zip(rows, parts[part].read(rows), strict=True):
            yield Job(image, part, row, name)


def _sizes_differ(made: Pixels, one: Done, decoded: Iterator[Done]) -> ValueError:
    seen = [(made.side, made.side)] * len(made.rows)
    seen += [np.shape(d.pixels)[:2] for d in (one, *islice(decoded, SIZES)) if not isinstance(d.pixels, Bad)]
    short = int(median(min(size) for size in seen))
    (height, width), (other_height, other_width) = seen[0], seen[len(made.rows)]
    what = f"{other_width}x{other_height} pixels in row {one.row} of the {one.part} part"
    what += f" ({one.name})" if one.name else ""
    if made.rows:
        what = f"{width}x{height} and {what}"
    return ValueError(
        f"images must be square and of one size, or be made so: there are {what}; set data.image_size, "
        f"e.g. data.image_size={short}, the median shorter side of {len(seen)} images"
    )


def _finish(
    work: Work,
    settings: Data,
    folder: Path,
    made: Pixels,
    *,
    called: str,
    source: Source,
    dropped: dict[str, list[BadRow]],
) -> Prepared:
    """Check, count, measure and store what was decoded."""
    classes = source.classes
    labels, splits = np.array(made.rows, dtype=np.int64).reshape(-1, 2).T
    per_class = np.stack([np.bincount(labels[splits == i], minlength=len(classes)) for i in range(len(SPLITS))])
    for split, counts in zip(SPLITS, per_class, strict=True):
        if split != "test" and settings.test_fraction == 1 and not counts.any():
            continue
        missing = [name for name, count in zip(classes, counts, strict=True) if not count]
        if len(classes) - len(missing) < (2 if split == "train" else 1):
            raise ValueError(
                f"{where(settings)}: the {split} split has {counts.sum()} images of "
                f"{len(classes) - len(missing)} classes, which is too few"
            )
        if missing:
            work.log.warning(
                "%s: no image of %s: %s%s",
                split,
                counted(len(missing), "class", "classes"),
                few(missing),
                "" if split == "train" else ", so that nothing is measured of them",
            )
    images = _compact(work, folder, made)
    rows, side, _, channels = images.shape
    mean, std = _normalisation(work, settings, images, np.flatnonzero(splits == 0))
    within, across = duplicates(made.digests, splits)
    stored = work.store.put(folder / "images.npy", "npy")
    table: list[dict[str, Any]] = []
    for i, split in enumerate(SPLITS):
        gone = dropped.get(split, [])
        # all images are for testing
        if not per_class[i].any():
            continue
        table.append(
            {
                "source": settings.source,
                "path": settings.path or None,
                "label": called,
                "split": split,
                "rows": int(per_class[i].sum()),
                "classes": len(classes),
                "image_size": side,
                "channels": channels,
                "class_rows_min": int(per_class[i].min()),
                "class_rows_max": int(per_class[i].max()),
                "class_rows": per_class[i].tolist(),
                "class_names": classes,
                "images_path": stored.path,
                "images_sha256": stored.sha256,
                "images_size_bytes": stored.size_bytes,
                "duplicates_within": within[i],
                "duplicates_across": across[i],
                "dropped": len(gone),
                "dropped_rows": [one.row for one in gone],
                "dropped_reasons": [str(one) for one in gone],
                "layout": "; merged: ".join(filter(None, (source.images.layout, few(source.images.merged)))),
                "left_out": [left.said for left in source.images.left]
                + [f"class {name}" for name in source.images.lost],
            }
        )
        if across[i]:
            work.log.warning("%d %s images equal an image of an earlier split", across[i], split)
    work.log.info(
        "%s: %d images of %dx%d pixels, %d channels: %s",
        called,
        rows,
        side,
        side,
        channels,
        ", ".join(f"{row['rows']} {row['split']}" for row in table),
    )
    work.log.info("%d classes: %s", len(classes), few(classes))
    return Prepared(
        images=stored,
        labels=_put(work, folder / "labels.npy", labels),
        splits=_put(work, folder / "splits.npy", splits.astype(np.uint8)),
        names=_put_names(work, folder / "names.json", made.names),
        classes=classes,
        image_size=side,
        channels=channels,
        mean=mean,
        std=std,
        train_rows=int(per_class[0].sum()),
        validation_rows=int(per_class[1].sum()),
        test_rows=int(per_class[2].sum()),
        tables={"datasets": work.rows("datasets", table)},
    )


def _normalisation(
    work: Work, settings: Data, images: np.ndarray, train: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) a channel: as the settings say, or of the training images."""
    channels = images.shape[3]
    if settings.mean is not None and settings.std is not None:
        if len(settings.mean) not in (1, channels):
            raise ValueError(f"data.mean, data.std: {len(settings.mean)} values for images of {channels} channels")
        each = channels // len(settings.mean)
        return settings.mean * each, settings.std * each
    mean, std = moments(images, train)
    if not all(std):
        work.log.warning("a channel has one value in all training images; its std is taken as 1")
    return tuple(mean), tuple(value or 1.0 for value in std)


def _put(work: Work, path: Path, array: np.ndarray) -> Artifact:
    np.save(path, np.ascontiguousarray(array))
    return work.store.put(path, "npy")


def _put_names(work: Work, path: Path, names: list[str]) -> Artifact | None:
    """A JSON list of the images' names; none where the source has none."""
    if not any(names):
        return None
    path.write_text(json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8")
    return work.store.put(path, "json")


def _compact(work: Work, folder: Path, made: Pixels) -> np.ndarray:
    """images.npy: without the room of rows that were dropped, of one channel if all are greyscale."""
    path, count = folder / "images.npy", len(made.rows)
    if made.colour and count == len(made.images):
        (folder / "decoded.npy").rename(path)
        return made.images
    shape = (count, *made.images.shape[1:3], 3 if made.colour else 1)
    with path.open("wb") as file:
        _begin(file, work, shape)
        for chunk in chunks(made.images, count):
            file.write(made.images[chunk, ..., : shape[3]].tobytes())
    return np.load(path, mmap_mode="r")


prepare_task = stage(
    lambda inputs: "prepare",
    libraries=("pillow", "numpy", "pyarrow", "scikit-learn", "torchvision"),
    modules=lambda inputs: (f"tasks.datasets.{resolve(inputs['settings']).source}",),
    extra=lambda inputs: {"content of the source": open_source(inputs["settings"]).fingerprint()},
)(prepare)
