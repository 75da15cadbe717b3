"""What values burnish's options take: texts that are not empty, lists, stages; a parser that tells a mistake in a
line."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from models._near import meant
from tasks.records import StageName

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 1_000_000
"""Of what an option counts: pixels, images, queries, threads, seconds; a million is more than anybody waits for."""
ROUNDS = 100
"""Of a benchmark, at most."""
WHAT = {
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
"""What stands for a value in the help -> what such a value is."""


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, and takes no empty text for a value."""

    def add_argument(self, *names: Any, **about: Any) -> argparse.Action:
        """Add an argument. Texts without a type of their own may not be empty."""
        if about.get("action", "store") in ("store", "append") and not {"type", "choices"} & set(about):
            about["type"] = _text(WHAT.get(str(about.get("metavar")), "value"))
        return super().add_argument(*names, **about)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2. What a type of this module is called says what is accepted."""
        told = re.sub(
            r"^argument (\S+): invalid ((?:list of )?(?:whole |positive )?(?:number|port).*) value: (.*)$",
            r"\1 \3: accepted is a \2",
            message,
        )
        told = re.sub(r"^argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)$", _choice, told)
        told = re.sub(r"^unrecognized arguments: (--[\w-]+)", self._unknown_option, told)
        told = re.sub(r"^unrecognized arguments: ([\w.]+=.*)$", r"\1: settings are given as --set \1", told)
        self.exit(2, f"burnish: {told.removeprefix('argument ')}; see {self.prog} --help\n")

    def _unknown_option(self, found: re.Match[str]) -> str:
        options = [option for action in actions(self) for option in action.option_strings]
        hint = meant(found[1], options).rstrip("? ")
        return f"{found[0]}{hint and f' ({hint})'}"


def _choice(found: re.Match[str]) -> str:
    accepted = re.findall(r"'([^']*)'", found[3])
    return f"{found[1]}: there is no {found[2]!r}; {meant(found[2], accepted)}accepted: {', '.join(accepted)}"


def actions(top: argparse.ArgumentParser) -> list[argparse.Action]:
    """All arguments of a parser and of its commands."""
    found = list(top._actions)
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [one for command in action.choices.values() for one in command._actions]
    return found


def _text(what: str) -> Callable[[str], str]:
    """The type of a text that is not empty."""

    def checked(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"an empty text is no {what}")
        return text

    return checked


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError("an empty text is no name" + (f" (in {text!r})" if text.strip() else ""))
    return found


def stages(text: str) -> tuple[str, ...]:
    """Names of stages with commas between them."""
    accepted = get_args(StageName)
    for name in names(text):
        if name not in accepted:
            raise argparse.ArgumentTypeError(
                f"there is no stage {name!r}; {meant(name, accepted)}accepted: {', '.join(accepted)}"
            )
    return names(text)


def numbers(text: str) -> tuple[int, ...]:
    """Positive integers, e.g. 1,8 or 3x224x224."""
    return tuple(count(part) for part in text.replace("x", ",").split(","))


def positive(text: str) -> float:
    """A number above 0."""
    if not 0 < float(text) <= MOST:
        raise ValueError
    return float(text)


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not 1 <= int(text) <= MOST:
        raise ValueError
    return int(text)


def rounds(text: str) -> int:
    """Rounds of a benchmark."""
    if not 1 <= int(text) <= ROUNDS:
        raise ValueError
    return int(text)


def port(text: str) -> int:
    """A port of TCP."""
    if not 1 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


# What argparse calls them when they are refused.
numbers.__name__, positive.__name__ = "list of whole numbers from 1 to a million", "positive number up to a million"
count.__name__, rounds.__name__ = "whole number from 1 to a million", f"whole number from 1 to {ROUNDS}"
port.__name__ = "port from 1 to 65535"
