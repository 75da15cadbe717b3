"""The sources `cifar10` and `cifar100` read the archives that torchvision unpacks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets import open_source
from tasks.records import Data
from tests.support.files import (
    opened,
)


def write_cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write batches of two images as torchvision's archive unpacks them, and have torchvision expect their checksums.

    Return the images: uint8, (rows, 32, 32, 3), those of the training batches first.
    """
    from hashlib import md5

    from torchvision import datasets

    dataset = getattr(datasets, name)
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)

    def write(file: str, content: dict[str, Any]) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()

    written = 0
    for attribute in ("train_list", "test_list"):
        batches = []
        for file, _ in getattr(dataset, attribute):
            labels = {"labels" if name == "CIFAR10" else "fine_labels": [written % 10, (written + 1) % 10]}
            batches.append([file, write(file, {"data": images[written : written + 2].reshape(2, -1), **labels})])
            written += 2
        monkeypatch.setattr(dataset, attribute, batches)
    meta = {
        **dataset.meta,
        "md5": write(dataset.meta["filename"], {dataset.meta["key"]: [f"class {i}" for i in range(10)]}),
    }
    monkeypatch.setattr(dataset, "meta", meta)
    return images[:written].transpose(0, 2, 3, 1)


# The test is slow because it imports torch and torchvision.
@pytest.mark.slow
@pytest.mark.parametrize(("source", "name", "train_rows"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 2)])
def test_cifar_is_read_from_the_batches_that_torchvision_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, train_rows: int
) -> None:
    images = write_cifar(tmp_path, name, monkeypatch)
    opened_source = opened(source, tmp_path)
    assert opened_source.classes == tuple(f"class {i}" for i in range(10))
    assert {part: p.rows for part, p in opened_source.parts.items()} == {"train": train_rows, "test": 2}
    assert np.array_equal(np.stack([image for image, _, _ in opened_source.parts["train"]]), images[:train_rows])
    assert np.array_equal(np.stack([image for image, _, _ in opened_source.parts["test"]]), images[train_rows:])
    assert list(opened_source.parts["test"].labels) == [train_rows % 10, (train_rows + 1) % 10]
    inside = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert open_source(Data(path=str(inside))).classes == opened_source.classes, (
        "the unpacked folder is a set by itself"
    )
    before = opened_source.fingerprint()
    next(tmp_path.rglob("test*")).write_bytes(b"other")
    assert opened(source, tmp_path).fingerprint() != before


@pytest.mark.slow
def test_a_cifar_download_that_fails_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    # Nothing listens at this port.
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    for read in (lambda source: source.parts, lambda source: source.fingerprint()):
        with pytest.raises(ValueError, match=r"CIFAR10 is not complete in .* and could not be downloaded") as error:
            read(opened("cifar10", tmp_path))
        assert "\n" not in str(error.value)
