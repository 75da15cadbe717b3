"""CIFAR-10 and CIFAR-100 as torchvision's archive unpacks them."""

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
    """Batches as torchvision's archive unpacks them, two images each; torchvision is told their checksums."""
    from hashlib import md5

    from torchvision import datasets

    known = getattr(datasets, name)
    folder = root / known.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)

    def write(file: str, content: dict[str, Any]) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()

    at = 0
    for attribute in ("train_list", "test_list"):
        found = []
        for file, _ in getattr(known, attribute):
            labels = {"labels" if name == "CIFAR10" else "fine_labels": [at % 10, (at + 1) % 10]}
            found.append([file, write(file, {"data": images[at : at + 2].reshape(2, -1), **labels})])
            at += 2
        monkeypatch.setattr(known, attribute, found)
    meta = {**known.meta, "md5": write(known.meta["filename"], {known.meta["key"]: [f"class {i}" for i in range(10)]})}
    monkeypatch.setattr(known, "meta", meta)
    return images[:at].transpose(0, 2, 3, 1)


# torch and torchvision are imported
@pytest.mark.slow
@pytest.mark.parametrize(("source", "name", "train"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 2)])
def test_cifar_reads_what_torchvision_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, train: int
) -> None:
    images = write_cifar(tmp_path, name, monkeypatch)
    found = opened(source, tmp_path)
    assert found.classes == tuple(f"class {i}" for i in range(10))
    assert {part: p.rows for part, p in found.parts.items()} == {"train": train, "test": 2}
    assert np.array_equal(np.stack([image for image, _, _ in found.parts["train"]]), images[:train])
    assert np.array_equal(np.stack([image for image, _, _ in found.parts["test"]]), images[train:])
    assert list(found.parts["test"].labels) == [train % 10, (train + 1) % 10]
    inside = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert open_source(Data(path=str(inside))).classes == found.classes, (
        "the folder that torchvision unpacks, by itself"
    )
    before = found.fingerprint()
    next(tmp_path.rglob("test*")).write_bytes(b"other")
    assert opened(source, tmp_path).fingerprint() != before


@pytest.mark.slow
def test_cifar_download_that_fails_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    # nothing listens there
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    for ask in (lambda source: source.parts, lambda source: source.fingerprint()):
        with pytest.raises(ValueError, match=r"CIFAR10 is not complete in .* and could not be downloaded") as error:
            ask(opened("cifar10", tmp_path))
        assert "\n" not in str(error.value)
