"""Every command refuses a folder that it cannot use in one line, before it does anything else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.cli import main
from flows.commands.arguments import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITH_OUT = {
    "run": ["quickstart"],
    "optimize": ["a.onnx", "--data", "photos"],
    "ui": [],
    "bench": ["model.onnx"],
    "profile": ["model.onnx"],
    "deploy": ["--to", "served"],
    "rebench": ["served"],
    "report": [],
    "why": [],
}
"""Commands that take --out, with the arguments that each needs beside it."""
WITHOUT = {"presets", "show", "verify", "completion"}
"""Commands that do not take --out."""
WRONG = {
    "file": "no folder can be there, as {0}/file is a file",
    "file/below": "no folder can be there, as {0}/file is a file",
    "link": "no folder can be there, as {0}/link is a link to nothing",
    "occupied": "no folder can be there, as {0}/occupied/runs is a file",
    "long" * 100: "no folder can be there (File name too long)",
}
"""Paths that cannot be folders, and what the refusal of each says."""


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file, a link to nothing, and a folder in which `runs` is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "runs").write_text("in the way")
    return tmp_path


def assert_refused(command: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err, output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("burnish: --")


def test_every_command_is_listed_as_one_with_or_without_out() -> None:
    assert {*WITH_OUT, *WITHOUT} == set(COMMANDS)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda text: text[:10])
@pytest.mark.parametrize("command", WITH_OUT)
def test_an_artifacts_folder_that_cannot_exist_is_refused(
    command: str, wrong: str, working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused([command, *WITH_OUT[command], "--out", wrong], WRONG[wrong].format(working_directory), capsys)


@pytest.mark.parametrize("wrong", ["file", "file/below", "link", "long" * 100], ids=lambda text: text[:10])
def test_a_folder_to_deploy_to_that_cannot_exist_is_refused(
    wrong: str, working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(["deploy", "--to", wrong], WRONG[wrong].format(working_directory), capsys)


@pytest.fixture
def unwritable(working_directory: Path) -> Iterator[Path]:
    """A read-only file system, because permissions would not keep root from writing."""
    folder = working_directory / "unwritable"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is for root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_only_commands_that_write_refuse_a_read_only_folder(
    unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"nothing can be written in {unwritable} (Read-only file system); name another folder"
    for command in sorted(WITH_OUT.keys() - {"why", "deploy"}):
        assert_refused([command, *WITH_OUT[command], "--out", "unwritable/below"], words, capsys)
    assert_refused(["deploy", "--to", "unwritable/below"], words, capsys)
    assert main(["why", "--out", "unwritable"]) == 2
    assert capsys.readouterr().err == "burnish: no runs in unwritable/runs; start one with: burnish run quickstart\n"


def test_a_folder_below_one_whose_name_is_no_utf8_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["run", "quickstart"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("burnish: --out: the name of ")
    assert line.endswith("\\xff\\xe9/artifacts is no UTF-8; name another folder")
