"""scikit-learn's bundled digits: 1,797 scans of hand-written digits, 8 x 8 greyscale, without splits.

From the test part of E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI repository, 1998.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.metadata import distribution, version
from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._source import Images, Part, Source

if TYPE_CHECKING:
    from tasks.records import Data

READS = ()
FILE = "sklearn/datasets/data/digits.csv.gz"
"""The file of the scikit-learn package that holds the digits."""


def open(data: Data) -> Source:
    """Open the digits. They are part of the scikit-learn package, so that its version stands for their content."""
    return Source(_load, lambda: hashlib.sha256(f"digits scikit-learn {version('scikit-learn')}".encode()).hexdigest())


def _load() -> Images:
    """Return the images, scaled from the 17 grey levels 0..16 that scikit-learn stores to 0..255."""
    # One line per image: 64 grey levels, then the digit. Importing scikit-learn to read it would take over a second.
    with gzip.open(str(distribution("scikit-learn").locate_file(FILE)), "rt", encoding="ascii") as file:
        lines = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels = np.rint(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    part = Part(lines[:, -1].tolist(), lambda rows: ((pixels[row], "") for row in rows))
    return Images(tuple(map(str, range(10))), {"train": part})
