"""Standard output that cannot be written is reported in one line. Without a reader, the command ends quietly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.command import SHORT
from tests.support.models import onnx_file
from tests.support.paths import ROOT
from tests.support.shared import copy_results

FULL = "burnish: the standard output cannot be written (No space left on device), so that not all was shown;"
CLOSED = FULL.replace("No space left on device", "Bad file descriptor")
COMMANDS = ("run --help", "presets")


def shell(command: str, *, code: int, cwd: Path = ROOT, **variables: str) -> str:
    """Run a line of bash, in which `burnish` stands for the command; return standard error."""
    line = f'burnish() {{ "{sys.executable}" -m flows "$@"; }}; {command}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env=environment,
        text=True,
        check=False,
        timeout=300,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_full_or_closed_standard_output_is_reported_in_one_line(arguments: str) -> None:
    command = f"burnish {arguments}"
    for redirected, message in ((">/dev/full", FULL), (">&-", CLOSED)):
        (line,) = shell(f"{command} {redirected}", code=1).splitlines()
        assert line.startswith(message)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_command_whose_reader_has_gone_ends_quietly_with_exit_code_141(arguments: str) -> None:
    assert shell(f"burnish {arguments} | :; exit ${{PIPESTATUS[0]}}", code=141) == ""


def test_why_and_bench_report_a_full_standard_output_and_bench_keeps_its_tables(tmp_path: Path) -> None:
    onnx_file(tmp_path / "model.onnx")
    run = tmp_path / "artifacts" / "runs" / "small-20260101-000000"
    (run / "why").mkdir(parents=True)
    (run / "study.toml").write_text('name = "small"\n')
    (run / "result.json").write_text("{}")
    (run / "why" / "train.json").write_text('{"task": "train", "outcome": "hit", "differs": [], "at": 1.5}')
    bench = "burnish bench model.onnx --rounds 2 --seconds 0.1"
    for command in ("burnish why", bench):
        errors = shell(f"{command} >/dev/full", code=1, cwd=tmp_path).splitlines()
        assert errors[-1].startswith(FULL)
        assert "disk of" not in "".join(errors)
    assert list((tmp_path / "artifacts" / "bench").glob("*/benchmarks.parquet"))


def test_a_file_that_is_opened_later_does_not_become_the_closed_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "first"
    command = programs.command("with_closed_streams", str(file))
    closed = ["bash", "-c", 'exec "$@" >&- 2>&- <&-', "bash", *command]
    done = subprocess.run(closed, env=programs.environment(), check=False)
    assert done.returncode == 0
    assert file.read_text() == ""


def test_a_full_or_closed_standard_error_does_not_change_the_exit_code() -> None:
    for redirected in ("2>/dev/full", "2>&-"):
        shell(f"burnish show nosuch {redirected}", code=2)


@pytest.mark.slow
def test_a_run_with_an_unwritable_standard_output_still_writes_its_report(
    server: str, short_study: Path, tmp_path: Path
) -> None:
    copy_results(short_study, tmp_path / "out")
    settings = " ".join(f'--set="{setting}"' for setting in SHORT)
    command = f"burnish run quickstart --out {tmp_path / 'out'} {settings}"
    errors = shell(f"{command} --again benchmark >/dev/full", code=1, PREFECT_API_URL=server).splitlines()
    assert errors[-1].startswith(FULL)
    assert list((tmp_path / "out" / "runs").glob("*/report.html"))
    errors = shell(f"{command} | :; exit ${{PIPESTATUS[0]}}", code=141, PREFECT_API_URL=server).splitlines()
    assert len(list((tmp_path / "out" / "runs").glob("*/report.html"))) == 2
    assert " INFO report: " in errors[-1], "the log ends with the path of the report, as always"
