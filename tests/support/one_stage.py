"""A stage that stores one small file, asked for as a run asks for a stage, without Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.keys import Stage
from tasks.caching.results import open_request
from tasks.records import Context, Output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.caching.work import Work


def rows(work: Work, name: str) -> Output:
    """Store one file whose content is the name."""
    with work.store.temporary() as folder:
        (folder / "rows.bin").write_bytes(name.encode())
        return Output(tables={"trials": work.store.put(folder / "rows.bin", "bin")})


STAGE = Stage(rows, lambda inputs: f"rows/{inputs['name']}", (), None, None)


def ask(out: Path, name: str = "a", again: tuple[str, ...] = (), compute: Callable[[Work, str], Output] = rows) -> str:
    """Ask for the stage as a run does, and return "computed" or, where a stored result was taken, "hit"."""
    context = Context.model_construct(out=str(out), run="study-20260101-000000", again=again)
    with open_request(STAGE, context, {"context": context, "name": name}) as mine:
        if mine.stored is not None:
            return "hit"
        mine.keep(compute(mine.work(None), name))
        return "computed"
