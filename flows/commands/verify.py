"""`burnish verify`: check that a bundle's model gives its golden outputs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.bundle.read import read, verify
from flows.commands.trust import refuse_programs

if TYPE_CHECKING:
    import argparse


def main(arguments: argparse.Namespace) -> None:
    """Print a line per golden image, and how far the outputs are from the golden ones."""
    bundle = read(Path(arguments.bundle))
    refuse_programs(bundle.files, arguments.trust)
    print(verify(bundle), end="")
