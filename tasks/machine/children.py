"""Processes that burnish starts: where they find burnish's own code."""

from __future__ import annotations

import os
from pathlib import Path

# The folder that holds the packages flows, tasks and models.
ROOT = Path(__file__).resolve().parents[2]


def environment(**changed: str) -> dict[str, str]:
    """Return this process's environment for a child that imports burnish, with the variables in `changed` set.

    The child imports the packages that this process runs. Python's safe path keeps the working folder out of the
    child's search path, so that a user's own package named `tasks`, or a file named `torch.py`, does not stand before
    the real one.
    """
    # An empty entry would be the working folder.
    others = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *others]), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **paths, **changed}
