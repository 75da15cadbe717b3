"""What CIFAR-10 and CIFAR-100 share: torchvision downloads, verifies and reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.datasets import Images, Part, Source, fingerprint, location

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from tasks.records import Data


def open_cifar(data: Data, name: str, folder: str, files: Sequence[str]) -> Source:
    """Open torchvision's data set `name`, unpacked as `files` in `folder`; downloaded to data.path if absent."""
    root = location(data)
    if data.path and all((root / file).is_file() for file in files):
        # the unpacked folder itself was given
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
    """Refuse to download into a folder that holds something else: the user means that, and it would not be read."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"data.path: {root} is a file; {name} is read from a folder, or downloaded into one")
    inside = sorted(path.name for path in root.iterdir()) if root.exists() else []
    other = next((name for name in inside if not name.startswith((".", "cifar-"))), None)
    if other:
        raise ValueError(
            f"data.path: {root} does not hold {name}, but {other}; give a folder to download it to, or leave "
            "data.source out to read what is there"
        )


def _load(name: str, root: Path) -> Images:
    train, test = _download(name, root, train=True), _download(name, root, train=False)
    return Images(tuple(train.classes), {"train": _part(train), "test": _part(test)})


def _part(dataset: Any) -> Part:
    # uint8 (rows, 32, 32, 3)
    pixels = dataset.data
    return Part([int(label) for label in dataset.targets], lambda rows: ((pixels[row], "") for row in rows))


def _download(name: str, root: Path, train: bool) -> Any:
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        # unreachable, disk full; not the file that torchvision knows
        why = " ".join(str(error).split())
        raise ValueError(f"data.path: {name} is not complete in {root} and could not be downloaded: {why}") from error
