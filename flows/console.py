"""What a run shows while it works: bars in a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger("burnish")
EVERY_SECONDS = 10.0


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Log lines; of a stage's progress one every ten seconds, and its last."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        self.last = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if progress and progress[0] < progress[1] and time.monotonic() - self.last < EVERY_SECONDS:
            return
        if progress:
            self.last = time.monotonic()
        super().emit(record)


class _Bars(logging.Handler):
    """A bar for the study and one for the stage at work; other log lines stand above them."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.study = self.bars.add_task("study", total=None)
        self.stage = self.bars.add_task("starting", total=None)

    def emit(self, record: logging.LogRecord) -> None:
        overall, progress = getattr(record, "overall", None), getattr(record, "progress", None)
        text = record.getMessage()
        if overall:
            self.bars.update(self.study, completed=overall[0], total=overall[1])
        elif progress:
            self.bars.update(self.stage, completed=progress[0], total=progress[1], description=text)
        else:
            from rich.text import Text

            if stage := getattr(record, "stage", None):
                self.bars.reset(self.stage, total=None, description=stage)
            style = {"ERROR": "red", "WARNING": "yellow"}.get(record.levelname, "")
            self.bars.console.print(Text(f"{time.strftime('%H:%M:%S')} {text}", style=style), soft_wrap=True)


@contextmanager
def shown() -> Iterator[None]:
    """Show what the `burnish` logger is told, while inside."""
    before = LOG.propagate, LOG.level
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
    handler: logging.Handler = _Bars() if sys.stderr.isatty() else _Lines()
    LOG.addHandler(handler)
    try:
        if isinstance(handler, _Bars):
            with handler.bars:
                yield
        else:
            yield
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = before[0]
        LOG.setLevel(before[1])
