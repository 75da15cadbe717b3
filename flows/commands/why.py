"""`burnish why`: say for each stage of a run whether it was computed or taken from the cache, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.runs.choice import chosen_run
from flows.runs.so_far import stages

if TYPE_CHECKING:
    import argparse


def main(arguments: argparse.Namespace) -> None:
    """Print one line per stage, and below it what differed from the stage's last result."""
    out = Path(arguments.out)
    run = chosen_run(out, arguments.run, "study.toml")
    # All files are read before anything is printed, so that a damaged one brings an error instead of half an answer.
    begun = stages(out, run)
    print(f"run {run}")
    for stage in begun:
        print(f"{stage['outcome']:<9} {stage['task']}")
        for reason in stage["differs"]:
            print(f"{'':9}   {reason}")
