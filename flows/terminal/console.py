"""Show progress while burnish works: live lines at the lower end of a terminal, log lines anywhere else."""

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
LEAST_SHARE = 0.05
"""The end of a stage is foretold only after it has done this share of what it first reported as left."""
LEAST_SECONDS = 2.0
"""The end of a stage is foretold only after so many seconds, and only while it is as far away."""
BAR_WIDTHS = (8, 28)
"""Least and greatest width of a progress bar, in characters."""


class Pace:
    """Progress of the stage at work, and an estimate of when it ends.

    Attributes
    ----------
    label
        Name of the stage.
    doing
        What the stage said last.
    began
        When the stage began, as `time.monotonic` tells it.
    first, last
        The first and the last report of progress: its time, and the share that was done. None before any report.
    """

    def __init__(self, label: str = "", began: float | None = None) -> None:
        self.label = label
        self.doing = ""
        self.began = time.monotonic() if began is None else began
        self.first: tuple[float, float] | None = None
        self.last: tuple[float, float] | None = None

    def reached(self, share: float, doing: str) -> None:
        """Note which share of the stage is done, and what the stage says."""
        self.last = (time.monotonic(), share)
        self.doing = doing
        # The time until the share first grows does not count: a stage may need a while to begin.
        if self.first is None or share <= self.first[1]:
            self.first = self.last

    @property
    def share(self) -> float | None:
        """The share of the stage that is done, from 0 to 1; None before the stage reports any."""
        return min(self.last[1], 1.0) if self.last else None

    def seconds_left(self, expected: float | None) -> float | None:
        """Return the estimated seconds until the stage ends; None where there is no estimate, or it is long over.

        The estimate comes from the stage's pace since its first report. Before enough is reported it comes from
        `expected`, the seconds that the stage took in an earlier run.
        """
        now = time.monotonic()
        if self.first and self.last:
            seconds = self.last[0] - self.first[0]
            share = self.last[1] - self.first[1]
            if share >= LEAST_SHARE * (1 - self.first[1]) and seconds >= LEAST_SECONDS:
                foretold = seconds * (1 - self.last[1]) / share
                since_report = now - self.last[0]
                return max(foretold - since_report, 0.0) if since_report <= 2 * foretold + 10 else None
        if expected is None or now - self.began > 1.5 * expected:
            return None
        return max(expected - (now - self.began), 0.0)


def clock(seconds: float) -> str:
    """Return a time that has passed as text, e.g. 0:44 or 1:02:07."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def in_words(seconds: float) -> str:
    """Return a time that is left as text, no finer than it can be known, e.g. 40 s, 3 min or 1 h 20 min."""
    if seconds < 55:
        return f"{max(5 * round(seconds / 5), 5)} s"
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def view(width: int, progress: Progress | None, pace: Pace) -> list[Text]:
    """Return up to three lines of at most `width` characters: the study, the stage at work, what the stage says.

    `progress` is None for a command that runs no study.
    """
    from rich.text import Text

    # Before anything is computed, all stages may be cached, so the time that the others took before says nothing.
    rest = progress.rest() if progress and (progress.computed or progress.label == pace.label) else None
    # The stage has just begun, and has not said anything yet.
    if progress and progress.label != pace.label:
        pace = Pace(progress.label, progress.began)
    left = pace.seconds_left(progress.expected() if progress else None)
    lines = []
    if progress:
        lines.append(_study_line(width, progress, left, rest))
        if progress.current is None:
            return lines if progress.waiting else [*lines, Text("writing the report")]
    if pace.label or pace.doing:
        lines.append(_stage_line(width, pace, left))
    if pace.doing:
        doing = Text(f"  {pace.doing}", style="dim")
        doing.truncate(width, overflow="ellipsis")
        lines.append(doing)
    return lines or [Text("starting")]


def _study_line(width: int, progress: Progress, left: float | None, rest: float | None) -> Text:
    """Return the line about the study; `left` and `rest` are the seconds left for this stage and for all others."""
    figures = clock(time.monotonic() - progress.started)
    if progress.current is not None and left is not None and rest is not None:
        figures += f", about {in_words(left + rest)} left"
    name = f"{progress.done} of {progress.total} stages done"
    return _line(width, name, progress.done / max(progress.total, 1), figures)


def _stage_line(width: int, pace: Pace, left: float | None) -> Text:
    """Return the line about the stage at work: share and time left where they are known, else the time it has taken."""
    figures = []
    if pace.share is not None:
        figures.append(f"{pace.share:.0%}")
    if left is not None and left >= LEAST_SECONDS:
        figures.append(f"about {in_words(left)} left")
    text = ", ".join(figures) or clock(time.monotonic() - pace.began)
    return _line(width, pace.label or "working", pace.share, text)


def _line(width: int, name: str, share: float | None, figures: str) -> Text:
    """Return a name, a bar where the share is known and there is room, and figures. The name is cut first."""
    from rich.text import Text

    narrowest, widest = BAR_WIDTHS
    room = width - len(figures) - 2
    bar = 0
    if share is not None and room > 2 * narrowest + 2:
        bar = min(widest, max(narrowest, room - len(name) - 2))
    line = Text(name)
    line.truncate(max(room - bar - 2 * (bar > 0), 1), overflow="ellipsis")
    if bar and share is not None:
        full = round(bar * share)
        line.append("  ").append("━" * full, style="green").append("━" * (bar - full), style="bright_black")
    line.append("  ").append(figures)
    line.truncate(width, overflow="ellipsis")
    return line


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Write log lines to standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        self.addFilter(Sparse())


class _Terminal(logging.Handler):
    """Show progress of the study and of the stage at work at the terminal's lower end, and log lines above it."""

    EVERY_LINE = True
    """Whether the handler needs every line about progress (flows/logs.py)."""

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
    """Show what the logger "burnish" receives for as long as the context is open."""
    from rich.console import Console

    propagate = LOG.propagate
    level = LOG.level
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
        LOG.propagate = propagate
        LOG.setLevel(level)
