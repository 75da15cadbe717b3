"""`burnish ui`: Prefect's pages with every preset ready to be run, and a worker that runs what is asked for there.

Server, work pool, deployments and worker in one command. They end with it, and no setting of Prefect's is changed:
whoever runs `burnish run` or `prefect` afterwards finds all as it was. What was run, and schedules that were switched
on, stay in Prefect's database and are there again at the next start.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestration import server as prefect_server
from tasks.machine import children, parent

if TYPE_CHECKING:
    import argparse

    from prefect.client.orchestration import SyncPrefectClient

LOG = logging.getLogger("burnish")
POOL = "burnish"
LOOK_SECONDS = 0.5
FIRST = ", which makes its database this first time, for up to a minute"
KEPT = {"schedule", "active", "max_scheduled_runs", "parameters", "slug"}
"""Of a schedule, what a person may have changed."""


def main(arguments: argparse.Namespace) -> None:
    """Serve Prefect's pages until Ctrl-C.

    Raises
    ------
    Mistake
        If the port is taken.
    flows.orchestration.server.Lost
        If the server or the worker ends by itself.
    """
    out = Path(arguments.out).absolute()
    prefect_server.settle(out)
    first = not (Path(os.environ["PREFECT_HOME"]) / "prefect.db").exists()
    # before: making the database is waited for
    print(f"starting Prefect's server{FIRST if first else ''} ...", flush=True)
    server = prefect_server.start(arguments.port, pages=True)
    os.environ["PREFECT_API_URL"] = server.url
    from prefect.client.orchestration import get_client

    from flows.orchestration import liveness
    from flows.study import run_study  # noqa: F401  # what is deployed; imported while the server starts

    server.wait()
    liveness.mark_crashed(everything=True)
    with get_client(sync_client=True) as client:
        _pool(client)
        names = _deploy(client, out)
    log = Path(os.environ["PREFECT_HOME"]) / "burnish-worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            parent.command(sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=children.environment(BURNISH_UI="1"),
            start_new_session=True,
        )
    print(
        f"{len(names)} deployments: http://127.0.0.1:{arguments.port}/deployments\n"
        f"choose one, then Run -> Custom run: the whole study is the form; artifacts go to {out}\n"
        f"Ctrl-C ends the pages, and what was started from them",
        flush=True,
    )
    _until_one_ends({"server": (server.process, server.log), "worker": (worker, log)})


def _until_one_ends(processes: dict[str, tuple[Any, Path | None]]) -> None:
    while True:
        for name, (process, log) in processes.items():
            if process.poll() is not None:
                raise prefect_server.Lost(f"Prefect's {name} has ended; its last words are in {log}")
        time.sleep(LOOK_SECONDS)


def _pool(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _deploy(client: SyncPrefectClient, out: Path) -> list[str]:
    """Deploy every preset; a schedule that was switched on stays so. Returns their names."""
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.callables import parameter_schema

    from flows.orchestration.deployments import all_deployments
    from flows.study import run_study

    flow = client.create_flow(run_study)
    schema = parameter_schema(run_study).model_dump_for_openapi()
    names = []
    for wanted in all_deployments():
        name: str = wanted["name"]
        try:
            there = client.read_deployment_by_name(f"{run_study.name}/{name}")
            # without, the server drops them
            schedules = [_as_it_is(schedule) for schedule in there.schedules]
        except ObjectNotFound:
            schedules = [_schedule(schedule) for schedule in wanted["schedules"]]
        client.create_deployment(
            flow,
            name,
            schedules=schedules,
            parameters=wanted["parameters"] | {"out": str(out)},
            description=wanted["description"],
            tags=wanted["tags"],
            work_pool_name=POOL,
            entrypoint=f"{Path(run_study.fn.__code__.co_filename)}:{run_study.fn.__name__}",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(Path.cwd())}}],
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
        )
        names.append(name)
    return names


def _as_it_is(there: Any) -> Any:
    """A deployment's schedule, to be deployed again as the person left it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    return DeploymentScheduleCreate(**there.model_dump(include=set(DeploymentScheduleCreate.model_fields) & KEPT))


def _schedule(given: dict[str, Any]) -> Any:
    """A schedule of prefect.yaml as Prefect's client takes it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=given["cron"], timezone=given["timezone"]), active=given["active"]
    )
