"""Prefect's pages as docs/prefect.md says: every command is read from there and typed into a terminal."""

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
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
SECTION = (ROOT / "docs" / "prefect.md").read_text()
UI, SERVER, REST = (block.strip().splitlines() for block in re.findall(r"^```\n(.*?)^```", SECTION, re.M | re.S))
SCHEDULE = re.findall(r"`(prefect deployment schedule [^`]+)`", SECTION)
NIGHTLY = "burnish/quickstart-nightly"


class Place:
    """A free port, a Prefect home of its own, and what is typed with the page's port replaced."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.home, self.out = folder / "prefect", folder / "artifacts"
        self.environment = environment_without_server(folder) | {
            "PREFECT_SERVER_API_PORT": self.port,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def type(self, *lines: str) -> Terminal:
        """A shell in a terminal that is given these lines."""
        typed = " && ".join(line.replace("4200", self.port).replace(".venv/bin/", f"{BIN}/") for line in lines)
        return Terminal(["bash", "-c", typed], ROOT, self.environment)

    def answers(self) -> bool:
        try:
            return bool(api(self.url, "health"))
        except OSError:
            return False

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in api(self.url, "deployments/filter", {})}

    def parameters(self) -> dict[str, Any]:
        """The shortest study, as the form sends it."""
        study = load("quickstart", list(SHORT)).model_dump(mode="json", exclude_none=True)
        return {"study": study, "out": str(self.out)}

    def runs(self, deployment: str, *states: str) -> list[dict[str, Any]]:
        """Runs of a deployment that are in one of the states."""
        asked = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": states}}}
        time.sleep(0.5)
        return list(api(self.url, "flow_runs/filter", {"flow_runs": asked}))

    def ended(self, deployment: str, terminal: Terminal) -> dict[str, Any]:
        """The first run of a deployment that has ended."""
        found: list[dict[str, Any]] = []
        terminal.wait_for(lambda: found.extend(self.runs(deployment, "COMPLETED", "FAILED", "CRASHED")) or found, 400)
        return found[0]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def closing() -> Iterator[list[Terminal]]:
    """Terminals that are closed whatever happens."""
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.mark.slow
def test_one_command_has_pages_and_a_worker_a_resumed_schedule_is_run_and_ctrl_c_ends_all(
    place: Place, closing: list[Terminal]
) -> None:
    (command,) = UI
    closing.append(terminal := place.type(f"exec {command} --port {place.port} --out {shlex.quote(str(place.out))}"))
    terminal.wait_for(lambda: "Ctrl-C ends" in terminal.text)
    (page,) = re.findall(r"http://\S+", terminal.text)
    assert page == re.findall(r"http://\S+/deployments", SECTION)[0].replace("4200", place.port)
    # as a browser does, else it is a 404
    asked = urllib.request.Request(page, headers={"Accept": "text/html"})
    assert b"<html" in urllib.request.urlopen(asked, timeout=30).read().lower()
    deployments = place.deployments()
    assert set(deployments) == {deployment["name"] for deployment in all_deployments()}
    assert {"study", "out"} <= deployments["quickstart"]["parameter_openapi_schema"]["properties"].keys()
    nightly = deployments["quickstart-nightly"]
    (schedule,) = nightly["schedules"]
    assert schedule["active"] is False

    # Due within a minute, whenever the next line is typed.
    cron = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}}
    at = f"deployments/{nightly['id']}/schedules/{schedule['id']}"
    api(place.url, at, cron, "PATCH")
    api(place.url, f"deployments/{nightly['id']}", {"parameters": place.parameters()}, "PATCH")
    listed, resumed = (shlex.split(line.replace("ID", schedule["id"])) for line in SCHEDULE)
    environment = place.environment | {"PREFECT_API_URL": place.url}
    subprocess.run([BIN / listed[0], *listed[1:]], env=environment, check=True, capture_output=True)
    subprocess.run([BIN / resumed[0], *resumed[1:]], env=environment, check=True, capture_output=True)
    terminal.wait_for(lambda: place.runs(nightly["id"], "RUNNING"), 240)
    # one is enough
    api(place.url, at, {"active": False}, "PATCH")
    run = place.ended(nightly["id"], terminal)
    assert run["auto_scheduled"], "made by the schedule, by nobody else"
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert list((place.out / "runs").glob("*/report.html"))

    form = {"parameters": place.parameters() | {"again": ["prepare"]}}
    second = api(place.url, f"deployments/{deployments['quickstart']['id']}/create_flow_run", form)
    terminal.wait_for(lambda: api(place.url, f"flow_runs/{second['id']}")["state_type"] == "RUNNING")
    assert len(terminal.processes()) >= 5, "two of the command, server, worker, run"
    terminal.ctrl_c()
    assert terminal.end() == 130
    assert terminal.alive_after(1) == []
    assert not (place.home / "profiles.toml").exists(), "no setting is left behind"


@pytest.mark.slow
def test_the_long_way_works_in_the_order_of_the_readme(place: Place, closing: list[Terminal]) -> None:
    closing.append(server := place.type(*SERVER))
    server.wait_for(place.answers)
    closing.append(rest := place.type(*REST))
    rest.wait_for(lambda: "started!" in rest.text)
    assert "Traceback" not in rest.text
    deployments = place.deployments()
    assert set(deployments) == {deployment["name"] for deployment in all_deployments()}
    quick = deployments["quickstart"]["id"]
    api(place.url, f"deployments/{quick}/create_flow_run", {"parameters": place.parameters()})
    run = place.ended(quick, rest)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert {artifact["key"] for artifact in api(place.url, "artifacts/filter", {})} >= {"summary", "report", "winner"}


@pytest.mark.slow
def test_deployed_again_a_schedule_that_was_switched_on_stays_on(server: str, tmp_path: Path) -> None:
    done = subprocess.run(
        programs.command("deployed_twice", str(tmp_path), NIGHTLY),
        cwd=ROOT,
        env=programs.environment(PREFECT_API_URL=server),
        text=True,
        check=True,
        capture_output=True,
    )
    assert done.stdout.splitlines() == ["False 0 3 * * *", "True 0 3 * * *"]


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
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
