"""Runs `burnish presets`, replaced by a function that opens a file a hundred times.

Argument: the folder of the file.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flows.commands.presets
from flows import cli


def open_files(arguments: Any) -> None:
    """Open the same file a hundred times, and keep it open."""
    with ExitStack() as files:
        for _ in range(100):
            files.enter_context(Path(sys.argv[1], "file").open("w"))


if __name__ == "__main__":
    flows.commands.presets.main = open_files
    sys.exit(cli.main(["presets"]))
