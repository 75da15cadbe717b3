"""A run whose temporary Prefect server is stopped while it starts."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.away import NOTICE_SECONDS, Run
from tests.support.command import environment_without_server


@pytest.mark.slow
def test_a_run_fails_within_a_minute_if_its_temporary_server_is_stopped_while_it_starts(tmp_path: Path) -> None:
    run = Run(tmp_path / "artifacts", environment_without_server(tmp_path))
    servers: list[psutil.Process] = []

    def server_started() -> bool:
        for process in psutil.Process(run.process.pid).children(recursive=True):
            if "uvicorn" in process.cmdline() and process not in servers:
                servers.append(process)
        return bool(servers)

    run.wait_for(server_started)
    servers[0].send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert run.end() == 1
    assert time.monotonic() - stopped_at < NOTICE_SECONDS, run.text
    (line,) = (line for _, line in run.lines)
    assert f"Prefect's temporary server (process {servers[0].pid}) has done nothing for 30 s" in line
    assert not servers[0].is_running() or servers[0].status() == psutil.STATUS_ZOMBIE
