"""Limits of the shell that a process runs under: one line each, and never a dump of a library's stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import programs
from tests.support.paths import ROOT
from tests.support.reports import RUN_1

LITTLE_SPACE = str(12 << 30)


def limited(limit: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["prlimit", limit, sys.executable, "-m", "flows", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def test_where_address_space_is_limited_a_report_is_written_without_charts(reported: Path) -> None:
    done = limited(f"--as={LITTLE_SPACE}", "report", "--out", str(reported))
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("charts are left out: what draws them reserves 77.3 GB") and line.endswith("to 12.9 GB here")
    page = (reported / "runs" / RUN_1 / "report.html").read_text()
    assert "left out, because the address space that a process may have is limited (ulimit -v)." in page


def test_too_few_open_files_are_said_with_what_raises_them(tmp_path: Path) -> None:
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
    ended = limited("--nofile=20:20", "run", "quickstart")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("burnish: failed: a process may have 20 open files here (ulimit -n), which are too few;")
    raised = limited("--nofile=20:200", "why", "--out", "/nowhere")
    assert raised.stderr.startswith("burnish: no runs in /nowhere/runs")
