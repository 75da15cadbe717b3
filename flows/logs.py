"""Filter what a run logs: progress at most every ten seconds, a failure in one line and its traceback once."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# The least time between two lines about progress.
EVERY_SECONDS = 10.0


def is_detail(record: logging.LogRecord) -> bool:
    """Return whether a line is one of many alike, such as a candidate's accuracy. Only the stage's log file has it."""
    return bool(getattr(record, "detail", False))


class Sparse(logging.Filter):
    """Let a line about progress pass at most every `EVERY_SECONDS`, drop details, and let every other line pass."""

    def __init__(self) -> None:
        super().__init__()
        # When a line about progress last passed.
        self.last = -EVERY_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line passes."""
        if is_detail(record):
            return False
        if getattr(record, "progress", None) is None:
            return True
        now = time.monotonic()
        if now - self.last < EVERY_SECONDS:
            return False
        self.last = now
        return True


def _keep_task_line(record: logging.LogRecord) -> bool:
    """Drop Prefect's lines about how a task ended, because the flow logs that itself, with the stage's name.

    The traceback of a failed stage stands in the stage's file in the run's folder `logs/`, and at the end of a flow run
    that fails.
    """
    return not str(record.msg).startswith(("Task run failed", "Finished in state"))


def _rewrite_flow_line(record: logging.LogRecord) -> bool:
    """Log the state that says why a flow run failed as an error, and introduce the traceback in plain words."""
    from prefect.exceptions import ParameterTypeError

    text = str(record.msg)
    if text.startswith("Finished in state Failed"):
        record.levelno, record.levelname = logging.ERROR, "ERROR"
    # Prefect's line goes on "with unexpected exception", and has the traceback.
    if record.exc_info and text.startswith("Engine execution exited"):
        # The person who started the run gave a wrong value, so a traceback into the code would not help.
        if isinstance(record.exc_info[1], ParameterTypeError):
            record.msg, record.exc_info = f"refused: {refusal(record.exc_info[1])}", None
        else:
            record.msg, record.exc_info = "This is where the run failed:", _where(record.exc_info[1])
    return True


def _where(error: BaseException | None) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return the first cause of an error as `exc_info`, with its traceback from where Prefect calls this project.

    An error in Prefect itself keeps its whole traceback.
    """
    assert error is not None
    while error.__cause__ is not None:
        error = error.__cause__
    start = error.__traceback__
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        if _is_in_prefect(place):
            start = place.tb_next
        place = place.tb_next
    # The innermost call is one of Prefect's.
    if place is not None and _is_in_prefect(place):
        start = error.__traceback__
    return type(error), error, start


def _is_in_prefect(place: TracebackType) -> bool:
    return "prefect" in Path(place.tb_frame.f_code.co_filename).parts


def refusal(error: Exception) -> str:
    """Return in one line what is wrong with the parameters that a run was started with."""
    lines = [line.removeprefix(" - ").replace("Value error, ", "") for line in str(error).splitlines()[1:]]
    return "; ".join(lines)


def tidy_errors() -> None:
    """Make a failing flow run say so in one line, with one traceback.

    This is called before a run begins, because a run may fail as it begins.
    """
    for name, log_filter in (("prefect.task_runs", _keep_task_line), ("prefect.flow_runs", _rewrite_flow_line)):
        logger = logging.getLogger(name)
        if log_filter not in logger.filters:
            logger.addFilter(log_filter)


def tidy_progress() -> None:
    """Make Prefect's log handlers, which exist once a run has begun, take few of the lines about progress."""
    # The handlers of the logger "burnish" send lines to the server, those of the root logger print them.
    for handler in (*logging.getLogger("burnish").handlers, *logging.getLogger().handlers):
        is_sparse = any(isinstance(log_filter, Sparse) for log_filter in handler.filters)
        if not getattr(handler, "EVERY_LINE", False) and not is_sparse:
            handler.addFilter(Sparse())
