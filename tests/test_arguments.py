"""The command line's help and its completion in a shell."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from flows.arguments import COMMANDS, EXAMPLES, RUNTIMES, parser


def burnish(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_parser_takes(command: str) -> None:
    top = parser(dict.fromkeys(COMMANDS, lambda _: None))
    for example in EXAMPLES[command].split("&&"):
        words = shlex.split(example.partition(">")[0])
        if words[0] == "burnish":
            assert top.parse_args(words[1:]).command in COMMANDS
    subparser = next(action for action in top._actions if action.dest == "command").choices[command]
    assert f"for example:\n  {EXAMPLES[command]}" in subparser.format_help()


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_help_names_the_runtimes(command: str) -> None:
    told = burnish(command, "--help").split()
    assert set(RUNTIMES.split(", ")) <= {word.strip(",") for word in told}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("burnish be", "bench"), ("burnish run --ag", "--again"), ("burnish run --again benc", "benchmark")],
)
def test_bash_completes_commands_options_and_choices(typed: str, offered: str) -> None:
    words = typed.split()
    script = burnish("completion", "bash")
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_burnish; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], text=True, capture_output=True, check=True)
    assert done.stdout.split() == [offered]
