"""Writes a file, and lets a library say something: for a process that is started without its standard streams."""

import os
import sys
from pathlib import Path

from flows.terminal.standard import guarded


def work() -> int:
    """Open the file named in the first argument while something is written to the standard output."""
    with Path(sys.argv[1]).open("w"):
        os.system("echo a library says something")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(work))
