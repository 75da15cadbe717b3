"""A stage that stores one small file. Tests request it as a run does, but without Prefect."""

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
    """Compute the stage: store one file whose content is `name`."""
    with work.store.temporary() as folder:
        (folder / "rows.bin").write_bytes(name.encode())
        return Output(tables={"trials": work.store.put(folder / "rows.bin", "bin")})


STAGE = Stage(rows, lambda inputs: f"rows/{inputs['name']}", (), None, None)


def ask(out: Path, name: str = "a", again: tuple[str, ...] = (), compute: Callable[[Work, str], Output] = rows) -> str:
    """Request the stage's result as a run does. Return "hit" if a stored result was used, "computed" otherwise."""
    context = Context.model_construct(out=str(out), run="study-20260101-000000", again=again)
    with open_request(STAGE, context, {"context": context, "name": name}) as request:
        if request.stored is not None:
            return "hit"
        request.keep(compute(request.work(None), name))
        return "computed"
