"""The command line's help texts, and its messages about options with bad values."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from flows.commands.arguments import COMMANDS, EXAMPLES, RUNTIMES, parser
from tests.support.paths import ROOT


def burnish(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_that_the_parser_accepts(command: str) -> None:
    top = parser()
    for example in EXAMPLES[command].split("&&"):
        words = shlex.split(example.partition(">")[0])
        if words[0] == "burnish":
            assert top.parse_args(words[1:]).command in COMMANDS
    subparser = next(action for action in top._actions if action.dest == "command").choices[command]
    assert f"for example:\n  {EXAMPLES[command]}" in subparser.format_help()


def test_help_of_every_command_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    top = parser()
    subparsers = next(action for action in top._actions if action.dest == "command").choices
    for command_parser in (top, *subparsers.values()):
        assert [line for line in command_parser.format_help().splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "a.onnx", "--rounds", "0"),
        ("bench", "a.onnx", "--batch", "1,x"),
        ("bench", "a.onnx", "--seconds", "0"),
        ("profile", "--queries", "0"),
        ("ui", "--port", "0"),
        ("run", "quickstart", "--scale", "x"),
    ],
)
def test_a_bad_value_of_an_option_is_refused_in_a_short_line_with_what_is_accepted(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parser().parse_args(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_info.value.code == 2
    assert len(line) < 130
    assert f"{arguments[-2]}" in line and ("accepted is a" in line or "accepted: " in line)


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_help_of_bench_and_profile_names_all_runtimes(command: str) -> None:
    words = burnish(command, "--help").split()
    assert set(RUNTIMES.split(", ")) <= {word.strip(",") for word in words}


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("flows.cli", 0, "burnish 0."),
        ("flows.commands.bench", 2, "flows.commands.bench is no program; the command is: burnish"),
        ("tasks.benchmark", 2, "tasks.benchmark is no program; the command is: burnish"),
    ],
)
def test_a_module_run_as_a_program_works_or_says_that_it_is_none(module: str, code: int, words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert ended.returncode == code
    assert words in (ended.stderr or ended.stdout)
