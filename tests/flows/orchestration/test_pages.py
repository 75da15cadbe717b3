"""Prefect's pages open as docs/prefect.md says: each command is read from there and typed into a terminal."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.orchestration.deployments import all_deployments
from flows.settings import load
from tests.support import programs
from tests.support.command import SHORT, api, environment_without_server
from tests.support.paths import ROOT
from tests.support.shared import copy_results
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "prefect.md").read_text()
UI, SERVER, WORKER = (block.strip().splitlines() for block in re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S))
SCHEDULE = re.findall(r"`(prefect deployment schedule [^`]+)`", PAGE)
NIGHTLY = "burnish/quickstart-nightly"


class Place:
    """A Prefect home, a free port and an artifacts folder of a test's own, and terminals in which commands use them."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.home = folder / "prefect"
        self.out = folder / "artifacts"
        self.environment = environment_without_server(folder) | {
            "PREFECT_SERVER_API_PORT": self.port,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def type(self, *lines: str) -> Terminal:
        """Type lines of docs/prefect.md, with the port of this place, into a shell in a terminal."""
        typed = " && ".join(line.replace("4200", self.port).replace(".venv/bin/", f"{BIN}/") for line in lines)
        return Terminal(["bash", "-c", typed], ROOT, self.environment)

    def answers(self) -> bool:
        try:
            return bool(api(self.url, "health"))
        except OSError:
            return False

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {deployment["name"]: deployment for deployment in api(self.url, "deployments/filter", {})}

    def parameters(self) -> dict[str, Any]:
        """Return the shortest study as the form sends it."""
        study = load("quickstart", list(SHORT)).model_dump(mode="json", exclude_none=True)
        return {"study": study, "out": str(self.out)}

    def runs(self, deployment: str, *states: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment that are in one of the states."""
        query = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": states}}}
        time.sleep(0.5)
        return list(api(self.url, "flow_runs/filter", {"flow_runs": query}))

    def first_ended(self, deployment: str, terminal: Terminal) -> dict[str, Any]:
        """Wait until a run of the deployment has ended, and return it."""
        ended_runs: list[dict[str, Any]] = []
        terminal.wait_for(
            lambda: ended_runs.extend(self.runs(deployment, "COMPLETED", "FAILED", "CRASHED")) or ended_runs, 400
        )
        return ended_runs[0]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals that are closed after the test, whatever happens."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.slow
def test_burnish_ui_serves_pages_runs_forms_and_schedules_and_ends_with_ctrl_c(
    place: Place, terminals: list[Terminal], short_study: Path
) -> None:
    copy_results(short_study, place.out)
    (command,) = UI
    terminal = place.type(f"exec {command} --port {place.port} --out {shlex.quote(str(place.out))}")
    terminals.append(terminal)
    terminal.wait_for(lambda: "Ctrl-C ends" in terminal.text)
    (page,) = re.findall(r"http://\S+", terminal.text)
    assert page == re.findall(r"http://\S+/deployments", PAGE)[0].replace("4200", place.port)
    # A browser sends this header; without it the answer is 404.
    request = urllib.request.Request(page, headers={"Accept": "text/html"})
    assert b"<html" in urllib.request.urlopen(request, timeout=30).read().lower()
    deployments = place.deployments()
    assert set(deployments) == {deployment["name"] for deployment in all_deployments()}
    assert {"study", "out"} <= deployments["quickstart"]["parameter_openapi_schema"]["properties"].keys()
    nightly = deployments["quickstart-nightly"]
    (schedule,) = nightly["schedules"]
    assert schedule["active"] is False

    # The schedule is due within a minute, whenever it is resumed.
    cron = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}}
    schedule_path = f"deployments/{nightly['id']}/schedules/{schedule['id']}"
    api(place.url, schedule_path, cron, "PATCH")
    api(place.url, f"deployments/{nightly['id']}", {"parameters": place.parameters()}, "PATCH")
    list_command, resume_command = (shlex.split(line.replace("ID", schedule["id"])) for line in SCHEDULE)
    environment = place.environment | {"PREFECT_API_URL": place.url}
    subprocess.run([BIN / list_command[0], *list_command[1:]], env=environment, check=True, capture_output=True)
    subprocess.run([BIN / resume_command[0], *resume_command[1:]], env=environment, check=True, capture_output=True)
    terminal.wait_for(lambda: place.runs(nightly["id"], "RUNNING"), 240)
    # One run by the schedule is enough.
    api(place.url, schedule_path, {"active": False}, "PATCH")
    run = place.first_ended(nightly["id"], terminal)
    assert run["auto_scheduled"], "the schedule made the run"
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert list((place.out / "runs").glob("*/report.html"))

    form = {"parameters": place.parameters() | {"again": ["prepare"]}}
    second = api(place.url, f"deployments/{deployments['quickstart']['id']}/create_flow_run", form)
    terminal.wait_for(lambda: api(place.url, f"flow_runs/{second['id']}")["state_type"] == "RUNNING")
    assert len(terminal.processes()) >= 5, "two processes of the command, and one each of server, worker and run"
    terminal.ctrl_c()
    assert terminal.end() == 130
    assert terminal.alive_after(1) == []
    assert not (place.home / "profiles.toml").exists(), "no setting is left behind"


@pytest.mark.slow
def test_separate_commands_for_server_and_worker_work_in_the_order_of_the_docs(
    place: Place, terminals: list[Terminal], short_study: Path
) -> None:
    copy_results(short_study, place.out)
    server = place.type(*SERVER)
    terminals.append(server)
    server.wait_for(place.answers)
    worker = place.type(*WORKER)
    terminals.append(worker)
    worker.wait_for(lambda: "started!" in worker.text)
    assert "Traceback" not in worker.text
    deployments = place.deployments()
    assert set(deployments) == {deployment["name"] for deployment in all_deployments()}
    quickstart = deployments["quickstart"]["id"]
    form = {"parameters": place.parameters() | {"again": ["benchmark"]}}
    api(place.url, f"deployments/{quickstart}/create_flow_run", form)
    run = place.first_ended(quickstart, worker)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert {artifact["key"] for artifact in api(place.url, "artifacts/filter", {})} >= {"summary", "report", "winner"}


@pytest.mark.slow
def test_a_schedule_that_was_switched_on_stays_on_when_it_is_deployed_again(server: str, tmp_path: Path) -> None:
    done = subprocess.run(
        programs.command("deployed_twice", str(tmp_path), NIGHTLY),
        cwd=ROOT,
        env=programs.environment(PREFECT_API_URL=server),
        text=True,
        check=True,
        capture_output=True,
    )
    assert done.stdout.splitlines() == ["False 0 3 * * *", "True 0 3 * * *"]


def test_burnish_ui_refuses_a_taken_port_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "flows", "ui", "--port", port, "--out", str(tmp_path)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"burnish: --port: port {port} cannot be used")
