"""The script that completes burnish's command line in a shell: commands, options, and the values that each of them
takes."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any, get_args

from flows.commands import options
from flows.commands.arguments import parser
from flows.presets import presets
from tasks.records import StageName, plugins
from tasks.records._base import SkippableStage

if TYPE_CHECKING:
    import argparse

CHOICES = {
    "--skip": get_args(SkippableStage),
    "--again": get_args(StageName),
    # null is for tests of the measuring
    "--runtime": tuple(name for name in plugins("runtimes") if name != "null"),
    "--device": ("cpu", "cuda:0", "auto"),
}
"""Option -> what it takes, where that is known beforehand."""


def main(arguments: argparse.Namespace) -> None:
    """Print the script for the shell that the command line names."""
    print(completion(parser(), arguments.shell))


def completion(top: argparse.ArgumentParser, shell: str) -> str:
    """A script for a shell that completes the commands, options, presets, stages, runs, variants, files and folders."""
    import shtab

    for action in options.actions(top):
        name = action.option_strings[0] if action.option_strings else ""
        metavar = str(action.metavar)
        found: Any = None
        if name in CHOICES:
            action.choices = CHOICES[name]
        elif metavar == "PRESET|FILE.toml":
            found = _either("studies", f"echo {shlex.join(presets())}", "*.toml")
        elif metavar == "VARIANT|FILE":
            found = _either("targets", _asking("variants"), "*")
        elif name == "--variant":
            found = _either("variants", _asking("variants"))
        elif metavar == "RUN":
            found = _either("runs", _asking("runs"))
        elif metavar == "FILE":
            found = shtab.FILE
        elif metavar == "DIR":
            found = shtab.DIRECTORY
        if found is not None:
            action.complete = found  # type: ignore[attr-defined]
    return str(shtab.complete(top, shell=shell))


def _asking(kind: str) -> str:
    """The command that tells runs or variants; a shell adds the words of the command line."""
    # -P: nothing of the folder one stands in is run
    return f"{shlex.quote(sys.executable)} -P -m flows.commands.offered {kind}"


def _either(name: str, command: str, files: str = "") -> dict[str, Any]:
    """Completion by what a command prints and, where `files` is a pattern, by the files that match it, for each
    shell."""
    asks = "flows.commands.offered" in command
    bash, zsh = (f"{command}{words if asks else ''} 2>/dev/null" for words in (' "${COMP_WORDS[@]}"', ' "${words[@]}"'))
    function = f"_burnish_{name}"
    more_bash = f'compgen -f -X "!{files}" -- "$1"' if files else ":"
    more_bash += '; compgen -d -- "$1"' if files not in ("", "*") else ""
    more_zsh = f'_files -g "{files}"' if files else ":"
    # there a slash ends the command
    tcsh = {} if "/" in command else {"tcsh": f"`{command}`"}
    return tcsh | {
        "bash": function,
        "zsh": function,
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "$({bash})" -- "$1"; {more_bash}\n}}',
            "zsh": f"{function}() {{\n  compadd -- ${{=$({zsh})}}; {more_zsh}\n}}",
        },
    }
