"""The log lines of one stage in a file of the run's folder, and its progress in an artifact of Prefect."""

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
# Seconds between two writes of a progress artifact, at least.
EVERY_SECONDS = 5.0
# The progress (part, whole) of a stage that is done. Its last report may have been that 13 of 14 epochs were done.
ENDED = (1, 1)
# Seconds for which a stage waits at its end until its last progress artifact is written, at most.
CLOSE_SECONDS = 1.0


class StageLog(logging.FileHandler):
    """Writes the log lines of one stage, including those about its progress, to a file in the run's folder."""

    def __init__(self, context: Context, label: str) -> None:
        folder = Path(context.out) / "runs" / context.run / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"{slug(label)}.log")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Let an error of writing, such as a full disk, end the stage. Python's handler would only print it."""
        raise  # noqa: PLE0704 (it is called where the error is handled)


class ProgressArtifact(logging.Handler):
    """Writes a stage's progress to an artifact of its Prefect task run, every few seconds.

    A thread of its own writes the newest report, so that the stage never waits for Prefect's server. A report that
    cannot be written is left out, because the next one replaces it, and flows/orchestration says that the server is
    away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._newest: tuple[float, str] | None = None
        self._wake = Event()
        self._closing = Event()
        self._thread: Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        # A stage that ends without having reported any progress gets no artifact.
        if not progress or (self._thread is None and progress is ENDED):
            return
        self._newest = 100.0 * progress[0] / max(progress[1], 1), record.getMessage()
        # The new thread gets this thread's context, from which Prefect knows the task run.
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
                    # Prefect's client raises this when it has used up its retries.
                    AssertionError,
                    # httpx raises this when the stage has ended meanwhile and its client is closed.
                    RuntimeError,
                ) as error:
                    logging.getLogger("burnish.progress").debug("not written: %s", error)
            if closing:
                return
            self._closing.wait(EVERY_SECONDS)

    def close(self) -> None:
        """Wait a moment for the last report to be written."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        super().close()


def _progress_artifact(artifact: UUID | None, share: float, text: str) -> UUID:
    """Write `share` (in percent) and `text` to the progress artifact of the current task run, and return its id.

    The artifact is made if `artifact` is None.
    """
    if artifact is not None:
        update_progress_artifact(artifact, progress=share, description=text)
        return artifact
    created = create_progress_artifact(share, description=text)
    # Prefect returns a coroutine only in a thread that runs an event loop, and this one does not.
    if not isinstance(created, UUID):
        raise TypeError(type(created).__name__)
    return created
