"""Sources of images: one file per source, and the file's name is the source's name.

A source is a module with a function `open(data: Data) -> Source`. Opening a source is cheap: nothing is read,
downloaded or imported until its images or its fingerprint are needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.datasets._source import Source
    from tasks.records import Data


def open_source(data: Data) -> Source:
    """Open the source that `data` names, or the one that reads what lies at data.path.

    Raises
    ------
    ValueError
        Here, or later when the images are needed: if nothing is at data.path, or the source cannot read it.
    """
    from tasks.datasets._find import resolve

    data = resolve(data)
    return importlib.import_module(f"tasks.datasets.{data.source}").open(data)
