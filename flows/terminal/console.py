"""What a person sees while burnish works: how far it is in a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import textwrap
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.logs import Sparse, is_detail
from flows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.text import Text

LOG = logging.getLogger("burnish")
LEAST_SHARE, LEAST_SECONDS = 0.05, 2.0
"""Of what a stage had left when it first said how far it is: that must have passed before its end is foretold."""
BAR = (8, 28)
"""Columns of a bar, least and most."""


class Pace:
    """How far the stage at work is, and when it ends."""

    def __init__(self, label: str = "", began: float | None = None) -> None:
        self.label = label
        """The stage's name."""
        self.doing = ""
        """What it said last."""
        self.began = time.monotonic() if began is None else began
        self.first: tuple[float, float] | None = None
        """When it was first said how far it is, and the share."""
        self.last: tuple[float, float] | None = None
        """When that was said last, and the share."""

    def reached(self, share: float, doing: str) -> None:
        """Note the share that is done, and what the stage says."""
        self.last = (time.monotonic(), share)
        self.doing = doing
        # what passes before the share grows is no part of the pace
        if self.first is None or share <= self.first[1]:
            self.first = self.last

    @property
    def share(self) -> float | None:
        """What is done of the stage, from 0 to 1; None where it has not said."""
        return min(self.last[1], 1.0) if self.last else None

    def left(self, expected: float | None) -> float | None:
        """Seconds to the stage's end, from the pace since it first said how far it is, else from the time it took
        before.

        None where neither is known, and where what was foretold is long over.
        """
        now = time.monotonic()
        if self.first and self.last:
            seconds, share = self.last[0] - self.first[0], self.last[1] - self.first[1]
            if share >= LEAST_SHARE * (1 - self.first[1]) and seconds >= LEAST_SECONDS:
                foretold, since = seconds * (1 - self.last[1]) / share, now - self.last[0]
                return max(foretold - since, 0.0) if since <= 2 * foretold + 10 else None
        if expected is None or now - self.began > 1.5 * expected:
            return None
        return max(expected - (now - self.began), 0.0)


def clock(seconds: float) -> str:
    """Time that has passed, e.g. 0:44 or 1:02:07."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def in_words(seconds: float) -> str:
    """Time that is left, no finer than it can be known, e.g. 40 s, 3 min or 1 h 20 min."""
    if seconds < 55:
        return f"{max(5 * round(seconds / 5), 5)} s"
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def view(width: int, progress: Progress | None, pace: Pace) -> list[Text]:
    """Return up to three lines of at most `width` columns: the study, the stage at work, what the stage says."""
    from rich.text import Text

    # Before anything is computed, all may be cached, so that the time the rest took before says nothing.
    rest = progress.rest() if progress and (progress.computed or progress.label == pace.label) else None
    # a stage has just begun, and not said anything
    if progress and progress.label != pace.label:
        pace = Pace(progress.label, progress.began)
    left = pace.left(progress.expected() if progress else None)
    lines = []
    if progress:
        known = progress.current is not None and left is not None and rest is not None
        time_left = f", about {in_words((left or 0) + (rest or 0))} left" if known else ""
        passed = clock(time.monotonic() - progress.started) + time_left
        whole = f"{progress.done} of {progress.total} stages done"
        lines.append(_line(width, whole, progress.done / max(progress.total, 1), passed))
        if progress.current is None:
            return lines if progress.waiting else [*lines, Text("writing the report")]
    if pace.label or pace.doing:
        share = f"{pace.share:.0%}" if pace.share is not None else ""
        foretold = f"about {in_words(left)} left" if left is not None and left >= LEAST_SECONDS else ""
        told = ", ".join(filter(None, (share, foretold))) or clock(time.monotonic() - pace.began)
        lines.append(_line(width, pace.label or "working", pace.share, told))
    if pace.doing:
        said = Text(f"  {pace.doing}", style="dim")
        said.truncate(width, overflow="ellipsis")
        lines.append(said)
    return lines or [Text("starting")]


def _line(width: int, name: str, share: float | None, told: str) -> Text:
    """A name, a bar where the share is known and there is room, and figures; the name gives way first."""
    from rich.text import Text

    room = width - len(told) - 2
    bar = min(BAR[1], max(BAR[0], room - len(name) - 2)) if share is not None and room > 2 * BAR[0] + 2 else 0
    line = Text(name)
    line.truncate(max(room - bar - 2 * (bar > 0), 1), overflow="ellipsis")
    if bar and share is not None:
        full = round(bar * share)
        line.append("  ").append("━" * full, style="green").append("━" * (bar - full), style="bright_black")
    line.append("  ").append(told)
    line.truncate(width, overflow="ellipsis")
    return line


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Log lines."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        self.addFilter(Sparse())


class _Terminal(logging.Handler):
    """How far the study and the stage at work are, at the terminal's lower end; log lines stand above."""

    EVERY_LINE = True
    """It needs every line about progress."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        from rich.live import Live

        self.console = console
        self.pace = Pace()
        self.addFilter(lambda record: not is_detail(record))
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def _render(self) -> Text:
        from rich.text import Text

        return Text("\n", no_wrap=True).join(view(self.console.width, Progress.latest, self.pace))

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        text = record.getMessage()
        if progress := getattr(record, "progress", None):
            self.pace.reached(progress[0] / max(progress[1], 1e-9), text)
            return
        if stage := getattr(record, "stage", None):
            self.pace = Pace(stage)
        lines = textwrap.wrap(
            f"{time.strftime('%H:%M:%S')} {text}",
            self.console.width,
            subsequent_indent=" " * 9,
            break_long_words=False,
            break_on_hyphens=False,
        )
        style = {"ERROR": "red", "WARNING": "yellow"}.get(record.levelname, "")
        self.console.print(Text("\n".join(lines), style=style), soft_wrap=True)


@contextmanager
def shown() -> Iterator[None]:
    """Show what the `burnish` logger is told, while inside."""
    from rich.console import Console

    before = LOG.propagate, LOG.level
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
    console = Console(stderr=True)
    bare = not console.is_terminal or console.is_dumb_terminal
    handler: logging.Handler = _Lines() if bare else _Terminal(console)
    LOG.addHandler(handler)
    Progress.latest = None
    try:
        if isinstance(handler, _Terminal):
            with handler.live:
                yield
        else:
            yield
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = before[0]
        LOG.setLevel(before[1])
