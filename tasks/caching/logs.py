"""Where the log lines and the progress of one stage go: a file in the folder of the run, an artifact in Prefect."""

from __future__ import annotations

import logging
from contextvars import copy_context
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from tasks.caching.why import slug
from tasks.records import Context

LOG = logging.getLogger("burnish")
# at most this often a progress artifact is written
EVERY_SECONDS = 5.0
# progress of a stage that is done, which may have said last that 13 of 14 epochs were
ENDED = (1, 1)
# that a stage waits at its end for its last progress artifact
CLOSE_SECONDS = 1.0


class StageLog(logging.FileHandler):
    """Log lines of one stage, in the run's folder; progress lines included."""

    def __init__(self, context: Context, label: str) -> None:
        folder = Path(context.out) / "runs" / context.run / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"{slug(label)}.log")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """What is wrong, as on a full disk, ends the stage: logging itself would print a traceback a line and go on."""
        raise  # noqa: PLE0704 (it is called where the error is handled)


class ProgressArtifact(logging.Handler):
    """A stage's progress as an artifact of its Prefect task run, every few seconds.

    A thread of its own writes the newest one, so that the stage never waits for Prefect's server. What cannot be
    written is left out: with the next report the server has it, and who watches over the server says that it is away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._newest: tuple[float, str] | None = None
        self._wake, self._closing = Event(), Event()
        self._thread: Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        # a stage that told nothing has no artifact
        if not progress or (self._thread is None and progress is ENDED):
            return
        self._newest = 100.0 * progress[0] / max(progress[1], 1), record.getMessage()
        # with this thread's context, which says what task run it is
        if self._thread is None:
            self._thread = Thread(target=copy_context().run, args=(self._write,), daemon=True, name="burnish-progress")
            self._thread.start()
        self._wake.set()

    def _write(self) -> None:
        artifact: UUID | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()
            newest, self._newest = self._newest, None
            if newest is not None:
                try:
                    artifact = _progress_artifact(artifact, *newest)
                except (
                    PrefectException,
                    httpx.HTTPError,
                    # Prefect's, out of retries
                    AssertionError,
                    # httpx's, where the stage has ended meanwhile and its client is closed
                    RuntimeError,
                ) as error:
                    logging.getLogger("burnish.progress").debug("not written: %s", error)
            if closing:
                return
            self._closing.wait(EVERY_SECONDS)

    def close(self) -> None:
        """Leave the last report a moment to be written."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        super().close()


def _progress_artifact(artifact: UUID | None, share: float, text: str) -> UUID:
    """Make the progress artifact of the current task run, or write `share` (in percent) and `text` into it."""
    if artifact is not None:
        update_progress_artifact(artifact, progress=share, description=text)
        return artifact
    made = create_progress_artifact(share, description=text)
    # a coroutine only where an event loop runs, which is not in this thread
    if not isinstance(made, UUID):
        raise TypeError(type(made).__name__)
    return made
