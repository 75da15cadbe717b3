"""The `burnish` command. Nothing heavy is imported before a run needs it: --help and presets answer at once."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from flows.commands.arguments import parser
from flows.orchestration.server import Lost
from flows.runs.damage import Damaged
from flows.runs.folders import refuse_unusable
from flows.settings import one_line
from flows.terminal.standard import too_many_files
from flows.terminal.supervisor import farewell
from tasks.machine.space import DiskFull, watched

if TYPE_CHECKING:
    from types import FrameType


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 the user's mistake, 128 + a signal's number ended by
    it."""
    arguments = parser().parse_args(argv)
    # before Prefect is imported: its client shows a notice otherwise
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # By an exception, so that what was started ends too. Prefect takes the signal first, and sends it again when it is
    # done.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        refuse_unusable(arguments)
        with watched(getattr(arguments, "out", ".")):
            # The file of a command has its name.
            import_module(f"flows.commands.{arguments.command}").main(arguments)
    except ValueError as error:
        # a Mistake, or what a stage says of the user's data
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
        told = too_many_files(error) or f"{type(error).__name__}: {error}\n(BURNISH_TRACEBACK=1 shows where)"
        print(f"burnish: failed: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from flows.__main__ import main as supervised

    sys.exit(supervised())
