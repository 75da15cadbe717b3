"""Runs `burnish presets`, which opens a hundred files in the folder that is the first argument."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flows.commands.presets
from flows import cli


def open_files(arguments: Any) -> None:
    """Open the same file a hundred times, and keep it open."""
    with ExitStack() as kept:
        for _ in range(100):
            kept.enter_context(Path(sys.argv[1], "file").open("w"))


if __name__ == "__main__":
    flows.commands.presets.main = open_files
    sys.exit(cli.main(["presets"]))
