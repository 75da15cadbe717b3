"""Runs a command in a pseudo-terminal, and notes what a person sees there while it runs."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

from tests.support.paths import ROOT
from tests.support.terminal import Terminal

SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


class Screen:
    """A terminal that understands what Rich writes: lines, cursor up, erased lines; colours are ignored."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.row = self.column = 0
        self.rest = ""

    def feed(self, text: str) -> None:
        text, at = self.rest + text, 0
        self.rest = ""
        while at < len(text):
            found = SEQUENCE.match(text, at)
            if found:
                self._control(found[1], found[2])
                at = found.end()
            elif text[at] == "\x1b" and not SEQUENCE.search(text, at):
                # cut off in the middle of a sequence
                self.rest = text[at:]
                return
            else:
                self._put(text[at])
                at += 1

    def _control(self, argument: str, name: str) -> None:
        if name == "A":
            self.row = max(self.row - int(argument or 1), 0)
        elif name == "K":
            assert argument == "2", f"erasing {argument!r} is not known here"
            self.lines[self.row] = ""
        else:
            # colours; cursor shown or hidden
            assert name in "mhl", f"{name!r} is not known here"

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
        else:
            if self.column >= self.width:
                self.row, self.column = self.row + 1, 0
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
        return [line.rstrip() for line in self.lines]


@dataclass
class Watched:
    """A command that has ended."""

    code: int
    seen: list[list[str]]
    """The last lines of the screen, whenever they had changed."""
    end: list[str]
    """All lines at the end, scrolled ones too."""


def watch(*arguments: str, width: int, environment: dict[str, str], seconds: float = 600) -> Watched:
    """Run `burnish` in a terminal of `width` columns and look at it until it ends."""
    environment = {k: v for k, v in environment.items() if k not in ("LINES", "NO_COLOR")}
    terminal = Terminal([sys.executable, "-m", "flows", *arguments], ROOT, environment, columns=width, rows=40)
    screen, seen, read, deadline = Screen(width), [], 0, time.monotonic() + seconds
    try:
        while terminal.process.poll() is None or read < len(terminal.text):
            assert time.monotonic() < deadline, screen.text[-20:]
            new = terminal.text[read:]
            screen.feed(new)
            read += len(new)
            if new and (not seen or seen[-1] != screen.text[-8:]):
                seen.append(screen.text[-8:])
            time.sleep(0.02)
        return Watched(terminal.end(30), seen, screen.text)
    finally:
        terminal.close()
