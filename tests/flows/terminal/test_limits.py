"""A limit of the shell (ulimit) that burnish runs into is reported in one line, never as the stack of a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import programs
from tests.support.paths import ROOT
from tests.support.reports import RUN_1

# Address space, in bytes: 12 GiB are too little for the library that draws charts.
LITTLE_SPACE = str(12 << 30)


def run_limited(limit: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of burnish under a limit, which is an option of prlimit."""
    return subprocess.run(
        ["prlimit", limit, sys.executable, "-m", "flows", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def test_a_report_is_written_without_charts_where_address_space_is_limited(artifacts_of_run: Path) -> None:
    done = run_limited(f"--as={LITTLE_SPACE}", "report", "--out", str(artifacts_of_run))
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("charts are left out: what draws them reserves 77.3 GB") and line.endswith("to 12.9 GB here")
    page = (artifacts_of_run / "runs" / RUN_1 / "report.html").read_text()
    assert "left out, because the address space that a process may have is limited (ulimit -v)." in page


def test_too_few_open_files_are_reported_with_the_limit_and_how_to_raise_it(tmp_path: Path) -> None:
    done = subprocess.run(
        ["prlimit", "--nofile=64:64", *programs.command("many_open_files", str(tmp_path))],
        env=programs.environment(),
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("burnish: failed: a process may have 64 open files here (ulimit -n), which are too few;")


def test_a_limit_of_so_few_files_that_libraries_would_fail_is_refused_at_once() -> None:
    ended = run_limited("--nofile=20:20", "run", "quickstart")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("burnish: failed: a process may have 20 open files here (ulimit -n), which are too few;")
    raised = run_limited("--nofile=20:200", "why", "--out", "/nowhere")
    assert raised.stderr.startswith("burnish: no runs in /nowhere/runs")
