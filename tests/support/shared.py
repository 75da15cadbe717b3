"""Lets all processes of one test run share what the first of them made, such as the results of a finished study."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def made_once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` of this test run. The first process that asks for it calls `make` with it; others wait.

    Parameters
    ----------
    make
        Fills the folder, which exists and is empty. Where it fails, the next process that asks calls it again.
    """
    base = temporary.getbasetemp()
    # pytest-xdist gives each process a folder of its own in the folder of the test run.
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, finished = base / name, base / f"{name}.finished"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


def copy_results(artifacts: Path, out: Path) -> None:
    """Copy the stored results of all stages from one artifacts folder to another, which has no runs or tables yet."""
    shutil.copytree(artifacts / "store", out / "store")
