"""Runs whose Prefect server goes away or never answers, and a home folder that cannot be written."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows.orchestration.server import _how_to_unset
from tasks.caching.logs import EVERY_SECONDS
from tests.support import programs
from tests.support.away import NOTICE_SECONDS, SETTINGS, Run
from tests.support.command import SHORT, api, environment_without_server, last_values, prefect_server
from tests.support.paths import ROOT
from tests.support.shared import copy_results


def without_server(kind: str, folder: Path, short_study: Path) -> tuple[Run, float]:
    """Let the server of a run go away; return the run, which has ended, and the time at which its server went away."""
    environment = environment_without_server(folder)
    if kind == "temporary":
        run = Run(folder / "artifacts", environment)
        run.wait_for(lambda: run.time_of("train/lenet5: computing"))
        (server,) = (
            child for child in psutil.Process(run.process.pid).children(recursive=True) if "uvicorn" in child.cmdline()
        )
        server.kill()
        killed = time.monotonic()
        run.end()
        return run, killed
    settings = SETTINGS
    if kind == "waiting":
        # This run has nothing to compute before it waits for its turn to measure, for longer than is stored.
        copy_results(short_study, folder / "artifacts")
        settings = last_values(*SHORT, "benchmark.min_seconds=0.06")
    with prefect_server(folder, environment) as (url, process):
        if kind == "waiting":
            full_limit = {"name": f"burnish {platform.node()} cpu", "limit": 1, "active_slots": 1}
            api(url, "v2/concurrency_limits/", full_limit)
        run = Run(folder / "artifacts", environment | {"PREFECT_API_URL": url}, settings)
        last_line = "waiting for another flow run's measurements" if kind == "waiting" else "train/lenet5: computing"
        run.wait_for(lambda: run.time_of(last_line))
        os.killpg(process.pid, getattr(signal, "SIGKILL" if kind == "waiting" else kind))
        killed = time.monotonic()
        run.end()
    return run, killed


KINDS = ("SIGKILL", "SIGSTOP", "temporary", "waiting")


@pytest.fixture(scope="module")
def ended_runs(short_study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, float]]:
    """Runs that have ended, and when their servers went away.

    The server was killed (SIGKILL), or stopped (SIGSTOP), so that it takes connections and answers none, or it was the
    temporary server of the run, or the run waited for its turn to measure. All runs go on at once, because most of the
    time they wait for an answer.
    """
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    with ThreadPoolExecutor(len(KINDS)) as pool:
        futures = {kind: pool.submit(without_server, kind, folder, short_study) for kind, folder in folders.items()}
        return {kind: future.result() for kind, future in futures.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_server_goes_away_says_so_and_finishes_without_it(
    kind: str, ended_runs: dict[str, tuple[Run, float]]
) -> None:
    run, killed_at = ended_runs[kind]
    assert run.process.returncode == 0, run.text[-3000:]
    said_at = run.time_of("the run goes on without it") or run.time_of("Prefect's server is away")
    assert said_at is not None and said_at - killed_at < NOTICE_SECONDS, run.text
    assert (run.time_of("Prefect's temporary server has ended") is not None) == (kind == "temporary")
    assert list((run.out / "runs").glob("*/report.html"))
    other_lines = [line for _, line in run.lines if not re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) ", line)]
    assert other_lines == [], "no line comes from Prefect"


@pytest.mark.slow
def test_progress_reports_do_not_wait_for_the_server(tmp_path: Path) -> None:
    with prefect_server(tmp_path, environment_without_server(tmp_path)) as (url, server):
        check_forty_epochs_with_a_stopped_server(url, server, tmp_path)


def check_forty_epochs_with_a_stopped_server(url: str, server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Stop the server during a flow of 40 epochs, and check that these take no longer than without it."""
    environment = environment_without_server(tmp_path) | {"PREFECT_API_URL": url, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        programs.command("flow_of_forty_epochs", str(tmp_path / "out")),
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "now\n"
    artifacts = api(url, "artifacts/filter", {})
    # A stopped server takes connections, and answers none.
    os.killpg(server.pid, signal.SIGSTOP)
    process.stdin.write("\n")
    process.stdin.flush()
    report = process.stdout.readline().split()
    process.kill()
    assert artifacts and artifacts[0]["type"] == "progress" and 0 < artifacts[0]["data"] <= 50, (
        "the server received progress before it was stopped"
    )
    assert report[0] == "seconds" and float(report[1]) < 40 * 0.3 + EVERY_SECONDS, (
        "40 epochs of 0.3 s take 12 s, whatever the server does"
    )


def run_quickstart(environment: dict[str, str], out: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    options = [f"--set={setting}" for setting in settings]
    return subprocess.run(
        [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(out), *options],
        cwd=ROOT,
        env=environment,
        text=True,
        timeout=400,
        check=False,
        capture_output=True,
    )


def test_an_address_without_a_server_is_refused_in_one_line_with_how_to_unset_it(tmp_path: Path) -> None:
    environment = environment_without_server(tmp_path)
    with socket.socket() as probe:
        # The port is taken, and nothing listens on it.
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        done = run_quickstart(environment | {"PREFECT_API_URL": url}, tmp_path / "artifacts")
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert line.startswith(f"burnish: PREFECT_API_URL is {url}, where no Prefect server answers")
        assert "unset PREFECT_API_URL" in line
        # Now the address comes from a profile of Prefect.
        home = Path(environment["PREFECT_HOME"])
        (home / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{url}"\n')
        done = run_quickstart(environment, tmp_path / "artifacts")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "prefect config unset PREFECT_API_URL" in line


def test_an_address_in_a_file_of_the_current_folder_is_taken_back_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    url = "http://127.0.0.1:1/api"
    assert _how_to_unset(url) == "run `prefect config unset PREFECT_API_URL`"
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={url}\n")
    assert _how_to_unset(url) == "take it out of the file .env in this folder"
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert _how_to_unset(url) == "run `unset PREFECT_API_URL`"


@pytest.mark.slow
def test_prefects_files_go_below_out_where_the_home_folder_cannot_be_written(short_study: Path, tmp_path: Path) -> None:
    copy_results(short_study, tmp_path / "artifacts")
    environment = environment_without_server(tmp_path)
    home = tmp_path / "home"
    home.write_text("no folder, so that root cannot write into it either")
    del environment["PREFECT_HOME"]
    done = run_quickstart(environment | {"HOME": str(home)}, tmp_path / "artifacts", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{home / '.prefect'} cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "artifacts" / "prefect" / "prefect.db").stat().st_size > 0
