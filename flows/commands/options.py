"""Types for the values of burnish's options, and a parser that reports a mistake in one line."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from models._suggestion import suggestion
from tasks.records import MOST_IMAGES_PER_BATCH, MOST_MINUTES, MOST_SECONDS, MOST_THREADS, StageName, plugins

if TYPE_CHECKING:
    from collections.abc import Callable

NAMED = tuple(name for name in plugins("runtimes") if name != "null")
"""Runtimes that help and messages name. The runtime null is left out: it serves only to test how burnish measures."""
MOST = 1_000_000
"""Greatest value of an option that counts pixels or queries. Nobody waits for a million."""
ROUNDS = 100
"""Greatest number of rounds of a benchmark."""
NOUNS = {
    "DIR": "folder",
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

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line. An argument that is unknown is a mistake of the command that it was given to."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            commands = _commands(self)
            option = unknown[0].partition("=")[0]
            owners = [name for name, parser in commands.items() if option in parser._option_string_actions]
            message = f"unrecognized arguments: {' '.join(unknown)}"
            if owners:
                message = f"{option} is an option of {', '.join(owners)}, not of {arguments.command}"
            commands.get(getattr(arguments, "command", ""), self).error(message)
        return arguments

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
        options = [option for action in self._actions for option in action.option_strings]
        hint = suggestion(match[1], options).rstrip("? ")
        return f"{match[0]} ({hint})" if hint else match[0]


def _unknown_choice(match: re.Match[str]) -> str:
    """Return the message about a value that is none of an option's choices."""
    accepted = re.findall(r"'([^']*)'", match[3])
    return f"{match[1]}: there is no {match[2]!r}; {suggestion(match[2], accepted)}accepted: {', '.join(accepted)}"


def actions(top: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return all arguments of a parser and of its commands."""
    return [*top._actions, *(action for command in _commands(top).values() for action in command._actions)]


def _commands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands by their names; none where it has no commands."""
    commands: dict[str, argparse.ArgumentParser] = {}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands |= action.choices
    return commands


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


def batches(text: str) -> tuple[int, ...]:
    """Parse batch sizes with commas between them."""
    return tuple(batch(part) for part in text.split(","))


def _positive(most: int) -> Callable[[str], float]:
    """Return the type of a number above 0 and up to `most`."""

    def checked(text: str) -> float:
        if not 0 < float(text) <= most:
            raise ValueError
        return float(text)

    # argparse's message about a wrong value has the name of its type.
    checked.__name__ = f"positive number up to {most}"
    return checked


def points(text: str) -> float:
    """Parse a number of percentage points."""
    if not 0 <= float(text) <= 100:
        raise ValueError
    return float(text)


def shares(text: str) -> tuple[float, ...]:
    """Parse one number from 0 to 1, or one per channel with commas between them."""
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3) or not all(0 <= value <= 1 for value in values):
        raise ValueError
    return values


def _whole(most: int, noun: str = "whole number") -> Callable[[str], int]:
    """Return the type of a whole number from 1 to `most`. `noun` says in the message what the number is."""

    def checked(text: str) -> int:
        if not 1 <= int(text) <= most:
            raise ValueError
        return int(text)

    checked.__name__ = f"{noun} from 1 to {most}"
    return checked


# What a study accepts of threads, batches, seconds and minutes, the options accept too.
count = _whole(MOST)
threads = _whole(MOST_THREADS)
batch = _whole(MOST_IMAGES_PER_BATCH)
rounds = _whole(ROUNDS)
port = _whole(65_535, "port")
seconds = _positive(MOST_SECONDS)
minutes = _positive(MOST_MINUTES)
numbers.__name__ = f"list of whole numbers from 1 to {MOST}"
batches.__name__ = f"list of whole numbers from 1 to {MOST_IMAGES_PER_BATCH}"
points.__name__ = "number from 0 to 100"
shares.__name__ = "list of one or three numbers from 0 to 1"
