"""scikit-learn's bundled digits: 1,797 scans of hand-written digits, 8 x 8 greyscale, without splits.

From the test part of E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI repository, 1998.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets._source import Images, Part, Source

if TYPE_CHECKING:
    from tasks.records import Data

READS = ()


def open(data: Data) -> Source:
    """Open the digits. They are part of the scikit-learn package, so that its version stands for their content."""
    return Source(_load, lambda: hashlib.sha256(f"digits scikit-learn {version('scikit-learn')}".encode()).hexdigest())


def _load() -> Images:
    """Return the images, scaled from the 17 grey levels 0..16 that scikit-learn stores to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    part = Part(digits.target.tolist(), lambda rows: ((pixels[row], "") for row in rows))
    return Images(tuple(str(name) for name in digits.target_names), {"train": part})
