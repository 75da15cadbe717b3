"""The parts that the sources cifar10 and cifar100 share. torchvision downloads, verifies and reads both data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models._messages import brief
from tasks.datasets._source import Images, Part, Source, fingerprint, location

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from tasks.records import Data


def open_cifar(data: Data, name: str, folder: str, files: Sequence[str]) -> Source:
    """Open the data set that torchvision calls `name`. It is downloaded to data.path if it is absent there.

    Parameters
    ----------
    folder
        The folder into which torchvision unpacks the data set.
    files
        The files in that folder.
    """
    root = location(data)
    # data.path may also be the unpacked folder itself.
    if data.path and all((root / file).is_file() for file in files):
        root = root.parent
    paths = [root / folder / file for file in files]
    if data.path and not all(path.is_file() for path in paths):
        _refuse_other_content(root, name)

    def content() -> str:
        if not all(path.is_file() for path in paths):
            _download(name, root, train=True)
        return fingerprint(paths, root)

    return Source(lambda: _load(name, root), content)


def _refuse_other_content(root: Path, name: str) -> None:
    """Refuse to download into a folder that holds something else. The user probably means that other content."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"data.path: {root} is a file; {name} is read from a folder, or downloaded into one")
    entries = sorted(path.name for path in root.iterdir()) if root.exists() else []
    other = next((entry for entry in entries if not entry.startswith((".", "cifar-"))), None)
    if other:
        raise ValueError(
            f"data.path: {root} does not hold {name}, but {other}; give a folder to download it to, or leave "
            "data.source out to read what lies there"
        )


def _load(name: str, root: Path) -> Images:
    """Return the images of the data set below `root`, which is downloaded if it is absent."""
    train = _download(name, root, train=True)
    test = _download(name, root, train=False)
    return Images(tuple(train.classes), {"train": _part(train), "test": _part(test)})


def _part(dataset: Any) -> Part:
    """Return the images of torchvision's data set as a part of a source."""
    # uint8, (rows, 32, 32, 3)
    pixels = dataset.data
    return Part([int(label) for label in dataset.targets], lambda rows: ((pixels[row], "") for row in rows))


def _download(name: str, root: Path, *, train: bool) -> Any:
    """Return torchvision's data set below `root`: its training images or its test images. Download it if it is absent.

    Raises
    ------
    ValueError
        If it cannot be downloaded, cannot be written, or is not the file that torchvision knows.
    """
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data.path: {name} is not complete in {root} and could not be downloaded: {brief(error)}"
        ) from error
