"""CIFAR-100: 50,000 training and 10,000 test images, 32 x 32 colour, 100 (fine) classes (A. Krizhevsky, 2009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.datasets._cifar import open_cifar

if TYPE_CHECKING:
    from tasks.datasets._source import Source
    from tasks.records import Data

READS = ("path",)


def open(data: Data) -> Source:
    """Open CIFAR-100 in data.path (by default ~/.cache/burnish). It is downloaded there if it is absent.

    Raises
    ------
    ValueError
        When the images are needed: if they are absent and cannot be downloaded.
    """
    return open_cifar(data, "CIFAR100", "cifar-100-python", ["train", "test", "meta"])
