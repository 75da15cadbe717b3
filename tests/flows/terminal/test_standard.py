"""Standard output that cannot be written: said in one line, or, where its reader has gone, a quiet end."""

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

FULL = "burnish: the standard output cannot be written (No space left on device), so that not all was shown;"
CLOSED = FULL.replace("No space left on device", "Bad file descriptor")
KINDS = ("run --help", "presets")


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_or_closed_output_is_one_line(kind: str) -> None:
    command = f"burnish {kind}"
    for redirected, said in ((">/dev/full", FULL), (">&-", CLOSED)):
        (line,) = shell(f"{command} {redirected}", code=1).splitlines()
        assert line.startswith(said)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_has_gone_ends_the_command_quietly(kind: str) -> None:
    assert shell(f"burnish {kind} | :; exit ${{PIPESTATUS[0]}}", code=141) == ""


def test_commands_of_a_folder_and_a_benchmark_say_it_too(tmp_path: Path) -> None:
    onnx_file(tmp_path / "model.onnx")
    run = tmp_path / "artifacts" / "runs" / "small-20260101-000000"
    (run / "why").mkdir(parents=True)
    (run / "study.toml").write_text('name = "small"\n')
    (run / "result.json").write_text("{}")
    (run / "why" / "train.json").write_text('{"task": "train", "outcome": "hit", "differs": [], "at": 1.5}')
    bench = "burnish bench model.onnx --rounds 2 --seconds 0.1"
    for command in ("burnish why", bench):
        told = shell(f"{command} >/dev/full", code=1, cwd=tmp_path).splitlines()
        assert told[-1].startswith(FULL)
        assert "disk of" not in "".join(told)
    assert list((tmp_path / "artifacts" / "bench").glob("*/benchmarks.parquet"))


def test_a_closed_output_is_taken_by_no_file_that_is_opened_later(tmp_path: Path) -> None:
    file = tmp_path / "first"
    command = programs.command("with_closed_streams", str(file))
    closed = ["bash", "-c", 'exec "$@" >&- 2>&- <&-', "bash", *command]
    done = subprocess.run(closed, env=programs.environment(), check=False)
    assert done.returncode == 0
    assert file.read_text() == ""


def test_standard_error_that_takes_nothing_changes_no_exit_code() -> None:
    for redirected in ("2>/dev/full", "2>&-"):
        shell(f"burnish show nosuch {redirected}", code=2)


@pytest.mark.slow
def test_a_run_is_finished_before_it_says_so(server: str, tmp_path: Path) -> None:
    settings = " ".join(f'--set="{setting}"' for setting in SHORT)
    command = f"burnish run quickstart --out {tmp_path / 'out'} {settings}"
    told = shell(f"{command} >/dev/full", code=1, PREFECT_API_URL=server).splitlines()
    assert told[-1].startswith(FULL)
    assert list((tmp_path / "out" / "runs").glob("*/report.html"))
    told = shell(f"{command} | :; exit ${{PIPESTATUS[0]}}", code=141, PREFECT_API_URL=server).splitlines()
    assert len(list((tmp_path / "out" / "runs").glob("*/report.html"))) == 2
    assert " INFO report: " in told[-1], "the log ends as ever, and nothing follows"
