"""Writes a file while a library prints something. A test starts it without standard streams."""

import os
import sys
from pathlib import Path

from flows.terminal.standard import guarded


def work() -> int:
    """Open the file named in the first argument while something else is written to standard output."""
    with Path(sys.argv[1]).open("w"):
        os.system("echo a library says something")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(work))
