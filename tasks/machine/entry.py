"""Refuse `python -m` of a module that is no program: it would define functions, do nothing and end with exit code 0."""

from __future__ import annotations

import sys
from pathlib import Path

MAIN = '\nif __name__ == "__main__":\n'


def refuse_no_program(package: str, root: Path) -> None:
    """End the process with exit code 2 if it was started as `python -m` of a module that has no main part.

    `package`, whose folder is `root`, calls this while it is imported, if ``sys.argv[0]`` is -m: that is so while
    Python looks for the module that it is to run.
    """
    words = sys.orig_argv
    name = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    file = root.parent.joinpath(*name.split(".")).with_suffix(".py")
    if name.partition(".")[0] == package and file.is_file() and MAIN not in file.read_text(encoding="utf-8"):
        print(f"burnish: {name} is no program; the command is: burnish, or python -m flows", file=sys.stderr)
        sys.exit(2)
