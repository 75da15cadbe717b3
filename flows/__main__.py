"""The `burnish` command, also ``python -m flows``: flows/cli.py in a process that is watched over."""

from __future__ import annotations

import codecs
import locale
import os
import sys

from flows.terminal.standard import guarded
from flows.terminal.supervisor import supervise


def _work() -> int:
    return guarded(_command)


def _command() -> int:
    from flows.cli import main

    return main(sys.argv[1:])


def main() -> int:
    """Entry point of the installed command; returns the exit code."""
    # Every file that is read and written is UTF-8.
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    return supervise(_work)


if __name__ == "__main__":
    sys.exit(main())
