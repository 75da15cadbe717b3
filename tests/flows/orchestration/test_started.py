"""What Prefect shows of a run that was started from it; what `burnish ui` says at its first start and at later ones."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.commands import ui
from flows.orchestration import liveness
from flows.orchestration.started import of_deployment
from tests.support import programs
from tests.support.command import api, bare
from tests.support.paths import ROOT

AGAIN = "run the deployment again with the same parameters"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "To confirm it, run the same command with --again benchmark while nothing else runs on this machine.",
            f'To confirm it, {AGAIN} and again = ["benchmark"] while nothing else runs on this machine.',
        ),
        ("run the same command with --set benchmark.minutes=20.", f"{AGAIN} but benchmark.minutes = 20."),
        ("run the same command with --set benchmark.minutes=0.5 while", f"{AGAIN} but benchmark.minutes = 0.5 while"),
        (
            "make room there, and the same command goes on",
            "make room there, and the deployment, run again with the same parameters, goes on",
        ),
    ],
)
def test_a_run_that_prefect_started_is_told_of_no_command(command: str, told: str) -> None:
    assert of_deployment(command) == told


@pytest.mark.slow
def test_a_stage_that_is_done_shows_all_of_its_progress(server: str, tmp_path: Path) -> None:
    command = programs.command("flow_with_progress", str(tmp_path / "out"))
    subprocess.run(command, env=programs.environment(PREFECT_API_URL=server), check=True)
    wanted: dict[str, Any] = {"artifacts": {"type": {"any_": ["progress"]}}, "sort": "CREATED_DESC"}
    (newest, *_) = api(server, "artifacts/filter", wanted)
    assert (newest["data"], newest["description"].split(" in ")[0]) == (100, "done")


@pytest.mark.slow
def test_the_first_start_of_the_pages_alone_says_that_it_makes_a_database(tmp_path: Path) -> None:
    said = []
    # the first until the pages are there, so that there is a database
    for wanted in ("deployments: http", "starting"):
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "ui", "--port", "4391", "--out", str(tmp_path / "out")],
            cwd=ROOT,
            env=bare(tmp_path),
            text=True,
            stdout=subprocess.PIPE,
        )
        late = threading.Timer(240, process.kill)
        late.start()
        assert process.stdout is not None
        said.append(process.stdout.readline())
        if wanted not in said[-1]:
            assert any(wanted in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        late.cancel()
    assert said == [
        "starting Prefect's server, which makes its database this first time, for up to a minute ...\n",
        "starting Prefect's server ...\n",
    ]


def test_ctrl_c_in_the_pages_ends_their_runs_and_marks_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[bool] = []
    monkeypatch.setattr(liveness, "mark_crashed", lambda *, everything: marked.append(everything))
    worker = subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; wait"], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    run = int(worker.stdout.readline())
    ui._end_runs(worker)
    assert worker.poll() is not None
    # The process may still wait for whoever adopted it to take note of its end.
    state = Path(f"/proc/{run}/status")
    assert not state.exists() or "State:\tZ" in state.read_text()
    assert marked == [True]
