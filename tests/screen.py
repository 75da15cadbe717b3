"""A run in a pseudo-terminal, and what a person would have seen in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass

from conftest import ROOT

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
                self.rest = text[at:]  # cut off in the middle of a sequence
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
            assert name in "mhl", f"{name!r} is not known here"  # colours; cursor shown or hidden

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
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {
        "TERM": "xterm-256color"
    }
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=environment,
                               stdin=follower, stdout=follower, stderr=follower, start_new_session=True)  # fmt: skip
    os.close(follower)
    screen, seen, deadline = Screen(width), [], time.monotonic() + seconds
    decoder = __import__("codecs").getincrementaldecoder("utf-8")()
    try:
        while True:
            assert time.monotonic() < deadline, screen.text[-20:]
            try:
                read = os.read(leader, 65536)
            except OSError:  # EIO: the last process has closed the terminal
                break
            if not read:
                break
            screen.feed(decoder.decode(read))
            if not seen or seen[-1] != screen.text[-8:]:
                seen.append(screen.text[-8:])
        return Watched(process.wait(30), seen, screen.text)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(leader)
