"""Which run a command is about: the one that is named, or the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.runs.unfinished import unfinished
from flows.settings import Mistake

if TYPE_CHECKING:
    from pathlib import Path


def chosen_run(out: Path, run: str | None, file: str) -> str:
    """Return the name of the run `run`, or without a name that of the newest run, among those that have left `file`.

    Raises
    ------
    Mistake
        If no run has left the file, or the one that is named has not; says why where the run has no results.
    """
    able = _runs_with(out, file)
    begun = _runs_with(out, "study.toml")
    if not able and not begun:
        raise Mistake(f"no runs in {out / 'runs'}; start one with: burnish run quickstart")
    wanted = run or (able or begun)[-1]
    if wanted in able:
        return wanted
    if wanted in begun:
        raise Mistake(unfinished(out, wanted))
    raise Mistake(f"no run {run!r} in {out / 'runs'}; there is {', '.join((able or begun)[-5:])}")


def _runs_with(out: Path, file: str) -> list[str]:
    """Names of the runs that have left a file, the newest last. A name ends with the date and the time of its start."""
    names = {path.parent.name for path in (out / "runs").glob(f"*/{file}")}
    return sorted(names, key=lambda name: name.rpartition("-")[0].rpartition("-")[2] + name.rpartition("-")[2])
