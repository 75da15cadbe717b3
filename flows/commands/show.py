"""`burnish show`: print a preset, or a study from a file, as TOML that can be edited and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.commands.arguments import study_of
from flows.settings import to_toml

if TYPE_CHECKING:
    import argparse


def main(arguments: argparse.Namespace) -> None:
    """Print the study that the command line names."""
    print(to_toml(study_of(arguments)), end="")
