"""Mark flow runs whose process was killed, or whose machine went down, as crashed in Prefect's database.

Every flow run holds the kernel's lock on a file of its own for as long as its process lives. A lock that another
process can take belongs to a dead run. So a run that is alive in any process of this machine is never marked.
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
# A run that began so recently may not have its file yet.
YOUNG = timedelta(minutes=10)
# Number of runs, or task runs, that Prefect's server lists in one answer; 200 is its limit.
PAGE = 200
# Stands in a run's file for the address of a server that burnish started, which changes with every start.
OWN = "own"
# The locked file of each flow run of this process, by the run's id. It must stay open: closing it releases the lock.
_held: dict[str, IO[str]] = {}


@dataclass(frozen=True)
class Dead:
    """A flow run whose process has died, as its file describes it."""

    server: str
    """Address of the server that showed the run; `OWN` where burnish had started that server."""
    finished: bool
    """Whether all results of the run were on disk."""


def _folder() -> Path:
    """Return the folder of the runs' files."""
    return get_current_settings().home / "burnish-runs"


def _server() -> str:
    """Return how the current server is named in a run's file."""
    started_by_burnish = os.environ.get("BURNISH_TEMPORARY_SERVER") or os.environ.get("BURNISH_UI")
    return OWN if started_by_burnish else str(get_current_settings().api.url)


def hold_current() -> None:
    """Show that the process of the current flow run is alive, from now until the process ends.

    Where `burnish ui` started the run, its process also ends when the worker's process ends, for whatever reason.
    """
    flow_run = str(runtime.flow_run.id)
    _folder().mkdir(parents=True, exist_ok=True)
    # Until it is locked, the file has a name that the search for dead runs leaves out.
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
    """Note that all results of the current run are on disk, in case Prefect's server cannot be told."""
    file = _held[str(runtime.flow_run.id)]
    file.write("finished\n")
    file.flush()


def _known_runs() -> dict[str, Dead | None]:
    """Return the flow runs that have a file, by id: None for a run whose process is alive."""
    runs: dict[str, Dead | None] = {}
    for path in _folder().glob("[!.]*"):
        # Another process may have marked the run, and removed the file, since it was listed.
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines = file.read().splitlines()
                runs[path.name] = Dead(server=lines[0] if lines else "", finished="finished" in lines[1:])
            except BlockingIOError:
                runs[path.name] = None
    return runs


def mark_crashed(*, everything: bool) -> int:
    """Set the final state of this machine's dead runs in Prefect's database, and return how many there were.

    Parameters
    ----------
    everything
        Whether the database belongs to this machine alone, so that a run without a file is dead, too.
    """
    known = _known_runs()
    server = OWN if everything else _server()
    ours = {name for name, dead in known.items() if dead and dead.server == server}
    marked: set[str] = set()
    if everything or ours:
        with get_client(sync_client=True) as client:
            for run in _unended(client, None if everything else [UUID(name) for name in ours]):
                if _is_dead(run, known):
                    dead = known.get(str(run.id))
                    _set_final_state(client, run, finished=dead is not None and dead.finished)
                    marked.add(str(run.id))
    for name in ours | marked:
        (_folder() / name).unlink(missing_ok=True)
    if marked:
        plural = "s" if len(marked) > 1 else ""
        LOG.info(
            "%d earlier run%s ended without telling Prefect, because of a signal say: marked as crashed there",
            len(marked),
            plural,
        )
    return len(marked)


def _unended(client: SyncPrefectClient, ids: list[UUID] | None) -> list[FlowRun]:
    """Return the flow runs that are still under way according to Prefect's database; only those in `ids`, if given."""
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["burnish"])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ALIVE)),
            id=FlowRunFilterId(any_=ids) if ids else None,
        ),
        limit=PAGE,
        offset=len(runs),
    ):
        runs += page
    return runs


def _is_dead(run: FlowRun, known: dict[str, Dead | None]) -> bool:
    name = str(run.id)
    if name in known:
        return known[name] is not None
    begun = run.start_time or run.expected_start_time or run.created
    return begun is None or datetime.now(UTC) - begun > YOUNG


def _set_final_state(client: SyncPrefectClient, run: FlowRun, *, finished: bool) -> None:
    """Set a dead run, and those of its task runs that had not ended, to completed or to crashed."""

    def state() -> State[Any]:
        if finished:
            return Completed(message="The run finished while Prefect's server was away.")
        message = "The process of the run ended without a word; the same command goes on where it stopped."
        return Crashed(message=of_deployment(message) if run.deployment_id is not None else message)

    # A person may have deleted the run meanwhile.
    with suppress(ObjectNotFound):
        client.set_flow_run_state(run.id, state(), force=True)
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=ALIVE))),
            limit=PAGE,
        )
        for task in tasks:
            client.set_task_run_state(task.id, state(), force=True)
