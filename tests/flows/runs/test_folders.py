"""A folder that cannot be one is one line before anything else, for every command that is given one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from flows.cli import main
from flows.commands.arguments import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITH_OUT = {
    "run": ["quickstart"],
    "ui": [],
    "bench": ["model.onnx"],
    "profile": ["model.onnx"],
    "deploy": ["--to", "served"],
    "report": [],
    "why": [],
}
WITHOUT = {"presets", "show", "completion"}
WRONG = {
    "file": "no folder can be there, as {0}/file is a file",
    "file/below": "no folder can be there, as {0}/file is a file",
    "link": "no folder can be there, as {0}/link is a link to nothing",
    "occupied": "no folder can be there, as {0}/occupied/runs is a file",
    "long" * 100: "no folder can be there (File name too long)",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "runs").write_text("in the way")
    return tmp_path


def refused(command: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err, told.err
    assert told.err.count("\n") == 1
    assert told.err.startswith("burnish: --")


def test_all_commands_are_here() -> None:
    assert {*WITH_OUT, *WITHOUT} == set(COMMANDS)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda text: text[:10])
@pytest.mark.parametrize("command", WITH_OUT)
def test_a_folder_that_cannot_be_is_refused(
    command: str, wrong: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([command, *WITH_OUT[command], "--out", wrong], WRONG[wrong].format(place), capsys)


@pytest.mark.parametrize("wrong", ["file", "file/below", "link", "long" * 100], ids=lambda text: text[:10])
def test_so_is_one_to_deploy_to(wrong: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["deploy", "--to", wrong], WRONG[wrong].format(place), capsys)


@pytest.fixture
def unwritable(place: Path) -> Iterator[Path]:
    """A file system that takes nothing: permissions would not keep root from writing."""
    folder = place / "unwritable"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is for root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_cannot_be_written_is_refused_to_those_who_write(
    unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"nothing can be written in {unwritable} (Read-only file system); name another folder"
    for command in sorted(WITH_OUT.keys() - {"why", "deploy"}):
        refused([command, *WITH_OUT[command], "--out", "unwritable/below"], words, capsys)
    refused(["deploy", "--to", "unwritable/below"], words, capsys)
    assert main(["why", "--out", "unwritable"]) == 2
    assert capsys.readouterr().err == "burnish: no runs in unwritable/runs; start one with: burnish run quickstart\n"
