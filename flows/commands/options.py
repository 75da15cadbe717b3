"""Types for the values of burnish's options, and a parser that reports a mistake in one line."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from models._suggestion import suggestion
from tasks.records import StageName

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 1_000_000
"""Greatest value of an option that counts pixels, images, queries, threads or seconds. Nobody waits for a million."""
ROUNDS = 100
"""Greatest number of rounds of a benchmark."""
NOUNS = {
    "DIR": "folder",
    "BUNDLE": "folder",
    "FILE": "file",
    "RUN": "run",
    "KEY=VALUE": "setting",
    "VARIANT|FILE": "variant or file",
    "PRESET|FILE.toml": "preset or file",
    "NAME": "name",
    "STAGE,...": "stage",
    "NAME,...": "name",
}
"""What a value is, in a word, by the placeholder that stands for it in the help."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, and refuses an empty text as a value."""

    def add_argument(self, *names: Any, **about: Any) -> argparse.Action:
        """Add an argument. A value without a type or choices may not be empty."""
        if about.get("action", "store") in ("store", "append") and not {"type", "choices"} & set(about):
            about["type"] = _text(NOUNS.get(str(about.get("metavar")), "value"))
        return super().add_argument(*names, **about)

    def error(self, message: str) -> NoReturn:
        """Print the mistake in one line, and end with exit code 2.

        The name of a type of this module says what is accepted, and is part of argparse's message.
        """
        text = re.sub(
            r"^argument (\S+): invalid ((?:list of )?(?:whole |positive )?(?:number|port).*) value: (.*)$",
            r"\1 \3: accepted is a \2",
            message,
        )
        text = re.sub(r"^argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)$", _unknown_choice, text)
        text = re.sub(r"^unrecognized arguments: (--[\w-]+)", self._unknown_option, text)
        text = re.sub(r"^unrecognized arguments: ([\w.]+=.*)$", r"\1: settings are given as --set \1", text)
        self.exit(2, f"burnish: {text.removeprefix('argument ')}; see {self.prog} --help\n")

    def _unknown_option(self, match: re.Match[str]) -> str:
        """Return argparse's message about an unknown option, with the nearest option that exists."""
        options = [option for action in actions(self) for option in action.option_strings]
        hint = suggestion(match[1], options).rstrip("? ")
        return f"{match[0]} ({hint})" if hint else match[0]


def _unknown_choice(match: re.Match[str]) -> str:
    """Return the message about a value that is none of an option's choices."""
    accepted = re.findall(r"'([^']*)'", match[3])
    return f"{match[1]}: there is no {match[2]!r}; {suggestion(match[2], accepted)}accepted: {', '.join(accepted)}"


def actions(top: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return all arguments of a parser and of its commands."""
    arguments = list(top._actions)
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                arguments += command._actions
    return arguments


def _text(noun: str) -> Callable[[str], str]:
    """Return the type of a text that is not empty; `noun` says in the message what the text is."""

    def checked(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"an empty text is no {noun}")
        return text

    return checked


def names(text: str) -> tuple[str, ...]:
    """Parse names with commas between them."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        place = f" (in {text!r})" if text.strip() else ""
        raise argparse.ArgumentTypeError(f"an empty text is no name{place}")
    return parts


def stages(text: str) -> tuple[str, ...]:
    """Parse the value of --again: names of stages with commas between them, in the order in which they are given.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no stage of a name.
    """
    accepted = get_args(StageName)
    for name in names(text):
        if name not in accepted:
            raise argparse.ArgumentTypeError(
                f"there is no stage {name!r}; {suggestion(name, accepted)}accepted: {', '.join(accepted)}"
            )
    return names(text)


def numbers(text: str) -> tuple[int, ...]:
    """Parse positive whole numbers, such as 1,8 or 3x224x224."""
    return tuple(count(part) for part in text.replace("x", ",").split(","))


def positive(text: str) -> float:
    """Parse a number above 0."""
    if not 0 < float(text) <= MOST:
        raise ValueError
    return float(text)


def count(text: str) -> int:
    """Parse a whole number from 1 on."""
    if not 1 <= int(text) <= MOST:
        raise ValueError
    return int(text)


def rounds(text: str) -> int:
    """Parse the number of rounds of a benchmark."""
    if not 1 <= int(text) <= ROUNDS:
        raise ValueError
    return int(text)


def port(text: str) -> int:
    """Parse the number of a TCP port."""
    if not 1 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


# argparse's message about a wrong value has the name of its type.
numbers.__name__ = "list of whole numbers from 1 to a million"
positive.__name__ = "positive number up to a million"
count.__name__ = "whole number from 1 to a million"
rounds.__name__ = f"whole number from 1 to {ROUNDS}"
port.__name__ = "port from 1 to 65535"
