"""The installed command `burnish`, also ``python -m flows``: runs flows/cli.py in a supervised child process."""

from __future__ import annotations

import codecs
import locale
import os
import sys

from flows.terminal.standard import guarded
from flows.terminal.supervisor import supervise
from tasks.machine.garbage import search_all_seldom


def _work() -> int:
    return guarded(_command)


def _command() -> int:
    search_all_seldom()
    from flows.cli import main

    return main(sys.argv[1:])


def main() -> int:
    """Run the command in a child process, and return its exit code."""
    # burnish reads and writes every file as UTF-8, so it starts again in Python's UTF-8 mode where the locale differs.
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    return supervise(_work)


if __name__ == "__main__":
    sys.exit(main())
