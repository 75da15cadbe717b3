"""`burnish report`: write the report of a run anew from its tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.runs.choice import chosen_run
from flows.runs.damage import check, check_profiles
from flows.runs.unfinished import unfinished
from flows.validation import one_line

if TYPE_CHECKING:
    import argparse


def main(arguments: argparse.Namespace) -> None:
    """Write the report and print its path. For a run without results, say why it has none."""
    from flows.report import page

    out = Path(arguments.out)
    run = chosen_run(out, arguments.run, "study.toml")
    if reason := unfinished(out, run):
        print(f"burnish: {one_line(reason)}", file=sys.stderr)
    check(out, run)
    check_profiles(out, run)
    print(page.render(out, run))
