"""Command line and environment with which a test starts a module of tests/programs in a process of its own."""

from __future__ import annotations

import os
import sys

from tests.support.paths import ROOT


def command(name: str, *arguments: object) -> list[str]:
    """Return the command line that runs tests/programs/`name`.py with these arguments."""
    return [sys.executable, "-m", f"tests.programs.{name}", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which a program imports the project from this repository alone."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **changes}
