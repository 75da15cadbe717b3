"""Flow runs that ended without a word, killed or with their machine, are marked as crashed in Prefect's database.

Every flow run holds the kernel's lock on a file of its own for as long as its process lives; a lock that can be taken
is that of a dead one. So no run that is alive, of whatever process of this machine, is ever marked.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Completed, Crashed

from flows.orchestration.started import of_deployment
from tasks.machine.parent import end_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

LOG = logging.getLogger("burnish")
ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
# a run that began so recently may not have its file yet
YOUNG = timedelta(minutes=10)
# runs and task runs that Prefect's server names at a time
PAGE = 200
OWN = "own"
_held: dict[str, IO[str]] = {}


@dataclass(frozen=True)
class Dead:
    """What a dead process left in its run's file."""

    server: str
    """Address of the server that the run was shown on; `OWN` where it was one that burnish had started."""
    finished: bool
    """Whether the run had all its results."""


def _folder() -> Path:
    return get_current_settings().home / "burnish-runs"


def _server() -> str:
    own = os.environ.get("BURNISH_TEMPORARY_SERVER") or os.environ.get("BURNISH_UI")
    return OWN if own else str(get_current_settings().api.url)


def hold_current() -> None:
    """Show that the current flow run's process is alive, from here until the process ends.

    Where `burnish ui` is behind it, the process ends with the worker that started it, however that ends.
    """
    flow_run = str(runtime.flow_run.id)
    _folder().mkdir(parents=True, exist_ok=True)
    # who looks for dead runs does not see it before it is locked
    unlocked = _folder() / f".{flow_run}"
    file = unlocked.open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(f"{_server()}\n")
    file.flush()
    unlocked.replace(_folder() / flow_run)
    _held[flow_run] = file
    if os.environ.get("BURNISH_UI"):
        end_with_parent(os.getppid())


def finish_current() -> None:
    """Note that the current run has all its results, should Prefect's server not be there to be told."""
    file = _held[str(runtime.flow_run.id)]
    file.write("finished\n")
    file.flush()


def _left() -> dict[str, Dead | None]:
    """Flow run -> what its process left; None while it lives."""
    found: dict[str, Dead | None] = {}
    for path in _folder().glob("[!.]*"):
        # another start has dealt with it
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines = file.read().splitlines()
                found[path.name] = Dead(server=lines[0] if lines else "", finished="finished" in lines[1:])
            except BlockingIOError:
                found[path.name] = None
    return found


def mark_crashed(*, everything: bool) -> int:
    """Give the dead runs of this machine an end in Prefect's database. Returns how many there were.

    `everything`: the database is this machine's own, so that a run without a file is a dead one, too.
    """
    left = _left()
    ours = {name for name, dead in left.items() if dead and dead.server == (OWN if everything else _server())}
    marked: set[str] = set()
    if everything or ours:
        with get_client(sync_client=True) as client:
            for run in _unended(client, None if everything else [UUID(name) for name in ours]):
                if _is_dead(run, left):
                    dead = left.get(str(run.id))
                    _end(client, run, whole=dead is not None and dead.finished)
                    marked.add(str(run.id))
    for name in ours | marked:
        (_folder() / name).unlink(missing_ok=True)
    if marked:
        LOG.info(
            "%d earlier run%s ended without a word: marked as crashed in Prefect", len(marked), "s"[: len(marked) > 1]
        )
    return len(marked)


def _unended(client: SyncPrefectClient, known: list[UUID] | None) -> list[FlowRun]:
    """Flow runs that are under way as Prefect's database has it; of those in `known`, or of all."""
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["burnish"])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ALIVE)),
            id=FlowRunFilterId(any_=known) if known else None,
        ),
        limit=PAGE,
        offset=len(runs),
    ):
        runs += page
    return runs


def _is_dead(run: FlowRun, left: dict[str, Dead | None]) -> bool:
    name = str(run.id)
    if name in left:
        return left[name] is not None
    begun = run.start_time or run.expected_start_time or run.created
    return begun is None or datetime.now(UTC) - begun > YOUNG


def _end(client: SyncPrefectClient, run: FlowRun, *, whole: bool) -> None:
    def state() -> State[Any]:
        if whole:
            return Completed(message="It finished while Prefect's server was away.")
        told = "Its process ended without a word; the same command goes on where it stopped."
        return Crashed(message=of_deployment(told) if run.deployment_id is not None else told)

    # removed meanwhile
    with suppress(ObjectNotFound):
        client.set_flow_run_state(run.id, state(), force=True)
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=ALIVE))),
            limit=PAGE,
        )
        for task in tasks:
            client.set_task_run_state(task.id, state(), force=True)
