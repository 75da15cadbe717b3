"""Advice and progress of runs in Prefect's pages, and what `burnish ui` prints at its first start and at later ones."""

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
from tests.support.command import api, environment_without_server
from tests.support.paths import ROOT

AGAIN = "run the deployment again with the same parameters"


@pytest.mark.parametrize(
    ("advice", "advice_in_prefect"),
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
def test_advice_for_a_run_that_prefect_started_names_the_deployment_and_no_command(
    advice: str, advice_in_prefect: str
) -> None:
    assert of_deployment(advice) == advice_in_prefect


@pytest.mark.slow
def test_a_finished_stage_shows_100_percent_of_its_progress(server: str, tmp_path: Path) -> None:
    command = programs.command("flow_with_progress", str(tmp_path / "out"))
    subprocess.run(command, env=programs.environment(PREFECT_API_URL=server), check=True)
    query: dict[str, Any] = {"artifacts": {"type": {"any_": ["progress"]}}, "sort": "CREATED_DESC"}
    (newest, *_) = api(server, "artifacts/filter", query)
    assert (newest["data"], newest["description"].split(" in ")[0]) == (100, "done")


@pytest.mark.slow
def test_only_the_first_start_of_burnish_ui_says_that_it_makes_a_database(tmp_path: Path) -> None:
    first_lines = []
    environment = environment_without_server(tmp_path)
    (tmp_path / "prefect" / "prefect.db").unlink()
    # The first start goes on until the pages are there, so that the database is complete.
    for words in ("deployments: http", "starting"):
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "ui", "--port", "4391", "--out", str(tmp_path / "out")],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
        )
        time_limit = threading.Timer(240, process.kill)
        time_limit.start()
        assert process.stdout is not None
        first_lines.append(process.stdout.readline())
        if words not in first_lines[-1]:
            assert any(words in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        time_limit.cancel()
    assert first_lines == [
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
