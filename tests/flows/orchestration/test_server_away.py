"""Prefect's server away, for good or from the beginning, and a home that nothing can be written to."""

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

from tasks.caching.logs import EVERY_SECONDS
from tests.support import programs
from tests.support.away import NOTICE_SECONDS, Run
from tests.support.command import SHORT, api, environment_without_server, prefect_server
from tests.support.paths import ROOT


def without_server(kind: str, folder: Path) -> tuple[Run, float]:
    """A run that has ended, whose server went away in the middle of its training, and when that was."""
    environment = environment_without_server(folder)
    if kind == "temporary":
        run = Run(folder / "artifacts", environment)
        run.wait_for(lambda: run.time_of("train/lenet5: computing"))
        (server,) = (p for p in psutil.Process(run.process.pid).children(recursive=True) if "uvicorn" in p.cmdline())
        server.kill()
        killed = time.monotonic()
        run.end()
        return run, killed
    with prefect_server(folder, environment) as (url, process):
        if kind == "waiting":
            taken = {"name": f"burnish {platform.node()} cpu", "limit": 1, "active_slots": 1}
            api(url, "v2/concurrency_limits/", taken)
        run = Run(folder / "artifacts", environment | {"PREFECT_API_URL": url})
        where = "waiting for another flow run's measurements" if kind == "waiting" else "train/lenet5: computing"
        run.wait_for(lambda: run.time_of(where))
        os.killpg(process.pid, getattr(signal, "SIGKILL" if kind == "waiting" else kind))
        killed = time.monotonic()
        run.end()
    return run, killed


KINDS = ("SIGKILL", "SIGSTOP", "temporary", "waiting")


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, float]]:
    """What became of runs whose servers were killed, stopped (it takes connections, and answers none), or their own, or
    killed while the run waited for its slot to measure.

    All at once: most of the time they wait for an answer.
    """
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    with ThreadPoolExecutor(len(KINDS)) as pool:
        ended = {kind: pool.submit(without_server, kind, folder) for kind, folder in folders.items()}
        return {kind: one.result() for kind, one in ended.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_server_goes_for_good_says_so_and_finishes_without_it(
    kind: str, left: dict[str, tuple[Run, float]]
) -> None:
    run, killed = left[kind]
    assert run.process.returncode == 0, run.text[-3000:]
    said = run.time_of("the run goes on without it") or run.time_of("Prefect's server is away")
    assert said is not None and said - killed < NOTICE_SECONDS, run.text
    assert (run.time_of("Prefect's temporary server has ended") is not None) == (kind == "temporary")
    assert list((run.out / "runs").glob("*/report.html"))
    others = [line for _, line in run.lines if not re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) ", line)]
    assert others == [], "it shows nothing of Prefect's"


@pytest.mark.slow
def test_progress_reports_do_not_wait_for_the_server(tmp_path: Path) -> None:
    with prefect_server(tmp_path, environment_without_server(tmp_path)) as (url, server):
        waits_for_nothing(url, server, tmp_path)


def waits_for_nothing(url: str, server: subprocess.Popen[bytes], tmp_path: Path) -> None:
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
    made = api(url, "artifacts/filter", {})
    # it takes connections, and answers none
    os.killpg(server.pid, signal.SIGSTOP)
    process.stdin.write("\n")
    process.stdin.flush()
    told = process.stdout.readline().split()
    process.kill()
    assert made and made[0]["type"] == "progress" and 0 < made[0]["data"] <= 50, "while it was there, it was told"
    assert told[0] == "seconds" and float(told[1]) < 40 * 0.3 + EVERY_SECONDS, "12 s of work, whatever the server does"


def start(environment: dict[str, str], out: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(out), *(f"--set={s}" for s in settings)],
        cwd=ROOT,
        env=environment,
        text=True,
        timeout=400,
        check=False,
        capture_output=True,
    )


def test_an_address_where_nothing_answers_is_one_line_that_says_how_to_unset_it(tmp_path: Path) -> None:
    environment = environment_without_server(tmp_path)
    with socket.socket() as probe:
        # taken, and not listening
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        done = start(environment | {"PREFECT_API_URL": url}, tmp_path / "artifacts")
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert line.startswith(f"burnish: PREFECT_API_URL is {url}, where no Prefect server answers")
        assert "unset PREFECT_API_URL" in line
        # The same address by a setting of Prefect's own.
        home = Path(environment["PREFECT_HOME"])
        (home / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{url}"\n')
        done = start(environment, tmp_path / "artifacts")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "prefect config unset PREFECT_API_URL" in line


@pytest.mark.slow
def test_where_home_cannot_be_written_prefects_files_go_below_out(tmp_path: Path) -> None:
    environment = environment_without_server(tmp_path)
    home = tmp_path / "home"
    home.write_text("no folder, so that root cannot write into it either")
    del environment["PREFECT_HOME"]
    done = start(environment | {"HOME": str(home)}, tmp_path / "artifacts", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{home / '.prefect'} cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "artifacts" / "prefect" / "prefect.db").stat().st_size > 0
