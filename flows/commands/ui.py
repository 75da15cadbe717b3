"""`burnish ui`: start Prefect's pages with every preset ready to be run, and a worker that runs them.

One command starts the server and the worker, and makes the work pool and the deployments. Server and worker end with
it, and it changes no setting of Prefect's, so a later `burnish run` or `prefect` finds everything as it was. Runs, and
schedules that were switched on, stay in Prefect's database and are shown again after the next start.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestration import server as prefect_server
from flows.orchestration.connection import Lost
from tasks.machine import children, parent

if TYPE_CHECKING:
    import argparse

    from prefect.client.orchestration import SyncPrefectClient

LOG = logging.getLogger("burnish")
POOL = "burnish"
# The time between two checks of whether the server and the worker still run.
LOOK_SECONDS = 0.5
FIRST_START = ", which makes its database this first time, for up to a minute"
EDITABLE = {"schedule", "active", "max_scheduled_runs", "parameters", "slug"}
"""Fields of a schedule that a person may have changed in Prefect's pages."""


def main(arguments: argparse.Namespace) -> None:
    """Serve Prefect's pages until Ctrl-C.

    Raises
    ------
    Mistake
        If the port is taken.
    flows.orchestration.connection.Lost
        If the server or the worker ends by itself.
    """
    out = Path(arguments.out).absolute()
    prefect_server.settle(out)
    first = not (Path(os.environ["PREFECT_HOME"]) / "prefect.db").exists()
    # Starting the server waits until it has made its database, so this is said before.
    print(f"starting Prefect's server{FIRST_START if first else ''} ...", flush=True)
    server = prefect_server.start(arguments.port, pages=True)
    os.environ["PREFECT_API_URL"] = server.url
    from prefect.client.orchestration import get_client

    from flows.orchestration import liveness

    # _deploy needs this module. It is imported here already, because that takes seconds in which the server starts.
    from flows.study import run_study  # noqa: F401

    server.wait()
    liveness.mark_crashed(everything=True)
    with get_client(sync_client=True) as client:
        _pool(client)
        names = _deploy(client, out)
    log = Path(os.environ["PREFECT_HOME"]) / "burnish-worker.log"
    worker = _start_worker(log)
    print(
        f"{len(names)} deployments: http://127.0.0.1:{arguments.port}/deployments\n"
        f"choose one, then Run -> Custom run: the whole study is the form; artifacts go to {out}\n"
        f"Ctrl-C ends the pages, and what was started from them",
        flush=True,
    )
    try:
        _until_one_ends({"server": (server.process, server.log), "worker": (worker, log)})
    except KeyboardInterrupt:
        _end_runs(worker)
        raise


def _end_runs(worker: subprocess.Popen[bytes]) -> None:
    """End the worker and the runs that it has started, and mark these in Prefect while its server still answers.

    The supervisor gives this a moment (`GRACE_SECONDS`). What is not marked by then is marked at the next start.
    """
    import psutil

    from flows.orchestration import liveness

    with suppress(psutil.NoSuchProcess):
        processes = [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=0.5)
    # The server may have ended too.
    with suppress(Exception):
        liveness.mark_crashed(everything=True)


def _start_worker(log: Path) -> subprocess.Popen[bytes]:
    """Start a Prefect worker that writes to the file `log`."""
    with log.open("wb") as file:
        return subprocess.Popen(
            parent.command(sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=children.environment(BURNISH_UI="1"),
            start_new_session=True,
        )


def _until_one_ends(processes: dict[str, tuple[Any, Path | None]]) -> None:
    """Wait until one of the processes, given with their log files, has ended; then raise `Lost`."""
    while True:
        for name, (process, log) in processes.items():
            if process.poll() is not None:
                raise Lost(f"Prefect's {name} has ended; its last words are in {log}")
        time.sleep(LOOK_SECONDS)


def _pool(client: SyncPrefectClient) -> None:
    """Make the work pool, unless it exists."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _deploy(client: SyncPrefectClient, out: Path) -> list[str]:
    """Deploy every preset, and return the names of the deployments. A schedule that was switched on stays on."""
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.callables import parameter_schema

    from flows.orchestration.deployments import all_deployments
    from flows.study import run_study

    flow = client.create_flow(run_study)
    schema = parameter_schema(run_study).model_dump_for_openapi()
    names = []
    for deployment in all_deployments():
        name: str = deployment["name"]
        try:
            existing = client.read_deployment_by_name(f"{run_study.name}/{name}")
            # The server removes schedules that are not sent again.
            schedules = [_unchanged(schedule) for schedule in existing.schedules]
        except ObjectNotFound:
            schedules = [_schedule(schedule) for schedule in deployment["schedules"]]
        client.create_deployment(
            flow,
            name,
            schedules=schedules,
            parameters=deployment["parameters"] | {"out": str(out)},
            description=deployment["description"],
            tags=deployment["tags"],
            work_pool_name=POOL,
            entrypoint=f"{Path(run_study.fn.__code__.co_filename)}:{run_study.fn.__name__}",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(Path.cwd())}}],
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
        )
        names.append(name)
    return names


def _unchanged(schedule: Any) -> Any:
    """Return a deployment's schedule such that deploying it again leaves it as the person set it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    fields = set(DeploymentScheduleCreate.model_fields) & EDITABLE
    return DeploymentScheduleCreate(**schedule.model_dump(include=fields))


def _schedule(entry: dict[str, Any]) -> Any:
    """Return a schedule of prefect.yaml as Prefect's client takes it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=entry["cron"], timezone=entry["timezone"]), active=entry["active"]
    )
