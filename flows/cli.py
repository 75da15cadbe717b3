"""The `burnish` command. Nothing heavy is imported before a command needs it, so --help and presets answer at once."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from flows.commands.arguments import parser
from flows.orchestration.connection import Lost
from flows.runs.damage import Damaged
from flows.runs.folders import refuse_unusable
from flows.terminal.standard import refuse_few_files, too_many_files
from flows.terminal.supervisor import farewell
from flows.validation import one_line
from tasks.machine.space import DiskFull, watched

if TYPE_CHECKING:
    from types import FrameType

LIGHT = ("presets", "show", "completion")
"""Commands that print what they know, and start nothing."""


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run the command and return the exit code.

    Returns
    -------
    int
        0 if the command is done, 1 if it failed, 2 for a mistake of the user. A signal that ends the command leaves as
        exception or as 130 after Ctrl-C.
    """
    arguments = parser().parse_args(argv)
    # Prefect's client shows a notice unless this is set before Prefect is imported.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # SIGTERM ends the command with an exception, so that the processes which it started end too. During a flow run
    # Prefect handles the signal first, and sends it again when it is done.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if arguments.command not in LIGHT:
            refuse_few_files()
        refuse_unusable(arguments)
        with watched(getattr(arguments, "out", ".")):
            # Each command is a module with the command's name.
            import_module(f"flows.commands.{arguments.command}").main(arguments)
    except ValueError as error:
        # A Mistake, or what a stage found wrong with the user's data or settings.
        print(f"burnish: {one_line(error)}", file=sys.stderr)
        return 2
    except (Damaged, DiskFull, Lost) as error:
        print(f"burnish: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(farewell(), file=sys.stderr)
        return 130
    except SystemExit:
        print(farewell(), file=sys.stderr)
        raise
    except Exception as error:
        if os.environ.get("BURNISH_TRACEBACK"):
            raise
        reason = too_many_files(error) or f"{type(error).__name__}: {error}\n(BURNISH_TRACEBACK=1 shows where)"
        print(f"burnish: failed: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # `python -m flows.cli` is the same as `python -m flows`.
    runpy.run_module("flows", run_name="__main__")
