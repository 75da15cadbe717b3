"""Find the run that a command is about: the one that the user names, or the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.runs.unfinished import unfinished
from flows.settings import Mistake

if TYPE_CHECKING:
    from pathlib import Path


def chosen_run(out: Path, run: str | None, file: str) -> str:
    """Return the name of a run that has left `file` in its folder: `run`, or the newest such run where that is None.

    Raises
    ------
    Mistake
        If no run has the file, or the one that is named has not. Where that run has no results, the message says why.
    """
    complete = _runs_with(out, file)
    begun = _runs_with(out, "study.toml")
    if not complete and not begun:
        raise Mistake(f"no runs in {out / 'runs'}; start one with: burnish run quickstart")
    wanted = run or (complete or begun)[-1]
    if wanted in complete:
        return wanted
    if wanted in begun:
        raise Mistake(unfinished(out, wanted))
    raise Mistake(f"no run {run!r} in {out / 'runs'}; there is {', '.join((complete or begun)[-5:])}")


def _runs_with(out: Path, file: str) -> list[str]:
    """Return the names of the runs that have left a file, the newest last.

    A run's name ends with the date and the time at which it started.
    """
    names = {path.parent.name for path in (out / "runs").glob(f"*/{file}")}
    return sorted(names, key=lambda name: name.rpartition("-")[0].rpartition("-")[2] + name.rpartition("-")[2])
