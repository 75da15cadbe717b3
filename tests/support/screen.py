"""Runs `burnish` in a pseudo-terminal, and records what a person sees on the screen while it runs."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

from tests.support.paths import ROOT
from tests.support.terminal import Terminal

SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


class Screen:
    """A terminal's screen that understands what Rich writes: lines, cursor up, erased lines. It ignores colours."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.row = 0
        self.column = 0
        self.incomplete_sequence = ""

    def feed(self, text: str) -> None:
        """Show more of the command's output."""
        text = self.incomplete_sequence + text
        self.incomplete_sequence = ""
        position = 0
        while position < len(text):
            sequence = SEQUENCE.match(text, position)
            if sequence:
                self._control(sequence[1], sequence[2])
                position = sequence.end()
            elif text[position] == "\x1b" and not SEQUENCE.search(text, position):
                # The text was cut off in the middle of a sequence.
                self.incomplete_sequence = text[position:]
                return
            else:
                self._put(text[position])
                position += 1

    def _control(self, argument: str, name: str) -> None:
        if name == "A":
            self.row = max(self.row - int(argument or 1), 0)
        elif name == "K":
            assert argument == "2", f"this screen cannot erase {argument!r}"
            self.lines[self.row] = ""
        else:
            # Colours, and whether the cursor is shown, are ignored.
            assert name in "mhl", f"this screen does not know the sequence {name!r}"

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
        else:
            if self.column >= self.width:
                self.row += 1
                self.column = 0
            self._extend()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1
        self._extend()

    def _extend(self) -> None:
        while self.row >= len(self.lines):
            self.lines.append("")

    @property
    def text(self) -> list[str]:
        """The lines on the screen, without spaces at their ends."""
        return [line.rstrip() for line in self.lines]


@dataclass
class Watched:
    """What a command showed until it ended."""

    code: int
    """The command's exit code."""
    seen: list[list[str]]
    """The last eight lines of the screen, each time that they had changed."""
    end: list[str]
    """All lines at the end, including those that had scrolled away."""


def watch(*arguments: str, width: int, environment: dict[str, str], seconds: float = 600) -> Watched:
    """Run `burnish` in a terminal of `width` columns and look at it until it ends."""
    environment = {k: v for k, v in environment.items() if k not in ("LINES", "NO_COLOR")}
    terminal = Terminal([sys.executable, "-m", "flows", *arguments], ROOT, environment, columns=width, rows=40)
    screen = Screen(width)
    seen: list[list[str]] = []
    shown_characters = 0
    deadline = time.monotonic() + seconds
    try:
        while terminal.process.poll() is None or shown_characters < len(terminal.text):
            assert time.monotonic() < deadline, screen.text[-20:]
            new_text = terminal.text[shown_characters:]
            screen.feed(new_text)
            shown_characters += len(new_text)
            if new_text and (not seen or seen[-1] != screen.text[-8:]):
                seen.append(screen.text[-8:])
            time.sleep(0.02)
        return Watched(terminal.end(30), seen, screen.text)
    finally:
        terminal.close()
