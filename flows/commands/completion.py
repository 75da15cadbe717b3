"""`burnish completion`: print a script that completes burnish's commands, options and their values in a shell."""

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
    # The runtime null is left out: it serves only to test how burnish measures.
    "--runtime": tuple(name for name in plugins("runtimes") if name != "null"),
    "--device": ("cpu", "cuda:0", "auto"),
}
"""The values that an option takes, where they do not depend on a run."""


def main(arguments: argparse.Namespace) -> None:
    """Print the script for the shell that the command line names."""
    print(completion(parser(), arguments.shell))


def completion(top: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell. It completes commands, options, presets, stages, runs, variants and paths."""
    import shtab

    for action in options.actions(top):
        name = action.option_strings[0] if action.option_strings else ""
        metavar = str(action.metavar)
        completer: Any = None
        if name in CHOICES:
            action.choices = CHOICES[name]
        elif metavar == "PRESET|FILE.toml":
            completer = _completer("studies", f"echo {shlex.join(presets())}", "*.toml")
        elif metavar == "VARIANT|FILE":
            completer = _completer("targets", _listing("variants"), "*")
        elif metavar == "MODEL":
            completer = _completer("models", _listing("variants"), "*.onnx")
        elif name == "--variant":
            completer = _completer("variants", _listing("variants"))
        elif metavar == "RUN":
            completer = _completer("runs", _listing("runs"))
        elif metavar == "FILE":
            completer = shtab.FILE
        elif metavar in ("DIR", "BUNDLE"):
            completer = shtab.DIRECTORY
        if completer is not None:
            action.complete = completer  # type: ignore[attr-defined]
    return str(shtab.complete(top, shell=shell))


def _listing(kind: str) -> str:
    """Return the shell command that lists runs or variants. The shell adds the words of the command line so far."""
    # With -P, Python imports nothing from the current folder, which may hold files of the user's with any name.
    return f"{shlex.quote(sys.executable)} -P -m flows.commands.offered {kind}"


def _completer(name: str, command: str, files: str = "") -> dict[str, Any]:
    """Return, for each shell, how it completes a value: from what a command prints, and from files.

    Parameters
    ----------
    name
        Name of the completion, for that of its shell function.
    command
        Shell command that prints the accepted values, separated by blanks.
    files
        Pattern of accepted files; empty accepts none.
    """
    function = f"_burnish_{name}"
    bash = f"{command} 2>/dev/null"
    zsh = f"{command} 2>/dev/null"
    if "flows.commands.offered" in command:
        bash = f'{command} "${{COMP_WORDS[@]}}" 2>/dev/null'
        zsh = f'{command} "${{words[@]}}" 2>/dev/null'
    more_bash = f'compgen -f -X "!{files}" -- "$1"' if files else ":"
    more_bash += '; compgen -d -- "$1"' if files not in ("", "*") else ""
    more_zsh = f'_files -g "{files}"' if files else ":"
    # shtab's script for tcsh takes a command up to its first slash.
    tcsh = {} if "/" in command else {"tcsh": f"`{command}`"}
    return tcsh | {
        "bash": function,
        "zsh": function,
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "$({bash})" -- "$1"; {more_bash}\n}}',
            "zsh": f"{function}() {{\n  compadd -- ${{=$({zsh})}}; {more_zsh}\n}}",
        },
    }
