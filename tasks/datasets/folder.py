"""A folder per class (ImageFolder): class sub-folders directly, or inside train/, val/ and test/ (or the like)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.datasets import Images, Part, Source, fingerprint, location

if TYPE_CHECKING:
    from tasks.records import Data

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}


def open(data: Data) -> Source:
    """Open the folder data.path.

    Classes are the sub-folders that hold an image, sorted by name; files in deeper folders belong to the class above.
    Rows are sorted by class and path. Files and folders whose names begin with a dot are left out, as are files that
    are no images by their suffix.

    Raises
    ------
    ValueError
        When its images are asked for: no such folder, no class folders, or a single class.
    """
    root = location(data)

    def content() -> str:
        found = (path for splits in _parts(root).values() for classes in splits.values() for path in classes[0])
        return fingerprint(list(found), root)

    return Source(lambda: _load(root), content)


def _load(root: Path) -> Images:
    parts = _parts(root)
    names = sorted({name for classes in parts.values() for name, (files, _) in classes.items() if files})
    example = f"{root / 'cat' / '1.jpg'}"
    if not names:
        raise ValueError(
            f"data.path: {root} has no sub-folder with images in it; a folder a class is needed: {example}"
        )
    if len(names) == 1:
        raise ValueError(f"data.path: {root} has images in one class folder only, {names[0]!r}; at least two are "
                         f"needed, a folder a class: {example}")  # fmt: skip
    others = sum(ignored for classes in parts.values() for _, ignored in classes.values())
    notes = [f"{others} files are no images by their suffix and were left out"] if others else []
    empty = sorted({name for classes in parts.values() for name in classes} - set(names))
    if empty:
        notes.append(f"folders without images are no classes: {', '.join(empty)}")
    made = {}
    for split, classes in parts.items():
        files = [(path, names.index(name)) for name, (found, _) in sorted(classes.items()) for path in found]
        if files:
            made[split] = _part(files, root)
        else:
            notes.append(f"{split}: no class folders with images, left out")
    return Images(tuple(names), made, tuple(notes))


def _part(files: list[tuple[Path, int]], root: Path) -> Part:
    return Part(
        [label for _, label in files],
        lambda rows: ((files[row][0], files[row][0].relative_to(root).as_posix()) for row in rows),
    )


def _parts(root: Path) -> dict[str, dict[str, tuple[list[Path], int]]]:
    """Split -> class folder -> (its images, number of other files)."""
    if not root.is_dir():
        raise ValueError(f"data.path: {root} is {'a file' if root.exists() else 'not there'}; a folder is needed")
    folders = {}
    for split, names in SPLITS.items():
        found = [path for path in _folders(root) if path.name.lower() in names]
        if len(found) > 1:
            raise ValueError(f"data.path: {' and '.join(str(p) for p in found)} are both {split} images; keep one")
        if found:
            folders[split] = found[0]
    if "train" not in folders or not _folders(folders["train"]):  # `train` may be a class, of trains
        folders = {"train": root}
    return {split: {path.name: _files(path) for path in _folders(folder)} for split, folder in folders.items()}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> tuple[list[Path], int]:
    images, others = [], 0
    for here, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                if name.lower().endswith(SUFFIXES):
                    images.append(Path(here, name))
                else:
                    others += 1
    return sorted(images), others
