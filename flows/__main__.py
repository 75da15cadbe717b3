"""The `burnish` command, also ``python -m flows``: flows/cli.py in a process that is watched over."""

from __future__ import annotations

import sys

from flows.supervisor import supervise


def _work() -> int:
    from flows.cli import main

    return main(sys.argv[1:])


def main() -> int:
    """Entry point of the installed command; returns the exit code."""
    return supervise(_work)


if __name__ == "__main__":
    sys.exit(main())
