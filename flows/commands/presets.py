"""`burnish presets`: list the presets, one line each."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from flows.presets import listed, presets

if TYPE_CHECKING:
    import argparse


def main(arguments: argparse.Namespace) -> None:
    """Print the names of all presets and what each is for."""
    print(listed(presets(), shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
