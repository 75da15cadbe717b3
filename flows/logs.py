"""What of a run reaches its logs: progress now and then, a failure in one line and its traceback once."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

EVERY_SECONDS = 10.0


def is_detail(record: logging.LogRecord) -> bool:
    """Whether a line is one of many alike, such as a candidate's accuracy: the stage's own file has it, nothing
    else."""
    return bool(getattr(record, "detail", False))


class Sparse(logging.Filter):
    """Lets a line about progress pass at most every ten seconds, no details, and every other line."""

    def __init__(self) -> None:
        super().__init__()
        self.last = -EVERY_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        if is_detail(record):
            return False
        if getattr(record, "progress", None) is None:
            return True
        now = time.monotonic()
        if now - self.last < EVERY_SECONDS:
            return False
        self.last = now
        return True


def _of_a_task(record: logging.LogRecord) -> bool:
    """Drop Prefect's word on how a task ended: the study says it with the stage's name, once.

    The traceback of a failed stage is in its file in the run's folder logs/, and at the end of a flow run that fails.
    """
    return not str(record.msg).startswith(("Task run failed", "Finished in state"))


def _of_the_flow(record: logging.LogRecord) -> bool:
    """Make the state that says why a flow run failed the one error of it, and name the traceback for what it is."""
    from prefect.exceptions import ParameterTypeError

    text = str(record.msg)
    if text.startswith("Finished in state Failed"):
        record.levelno, record.levelname = logging.ERROR, "ERROR"
    # "... with unexpected exception"
    if record.exc_info and text.startswith("Engine execution exited"):
        # the person's mistake: no place in the code is of use
        if isinstance(record.exc_info[1], ParameterTypeError):
            record.msg, record.exc_info = f"refused: {refusal(record.exc_info[1])}", None
        else:
            record.msg, record.exc_info = "This is where the run failed:", _where(record.exc_info[1])
    return True


def _where(error: BaseException | None) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """The first cause of an error, with its traceback from where Prefect calls the project, if it failed there."""
    assert error is not None
    while error.__cause__ is not None:
        error = error.__cause__
    start = place = error.__traceback__
    while place is not None and place.tb_next is not None:
        if _of_prefect(place):
            start = place.tb_next
        place = place.tb_next
    # it failed in Prefect itself
    if place is not None and _of_prefect(place):
        start = error.__traceback__
    return type(error), error, start


def _of_prefect(place: TracebackType) -> bool:
    return "prefect" in Path(place.tb_frame.f_code.co_filename).parts


def refusal(error: Exception) -> str:
    """What is wrong with the values that a run was started with, in one line."""
    lines = [line.removeprefix(" - ").replace("Value error, ", "") for line in str(error).splitlines()[1:]]
    return "; ".join(lines)


def tidy_errors() -> None:
    """Have a flow run that fails say so in one line, with one traceback. Before the run: it may fail as it begins."""
    for name, change in (("prefect.task_runs", _of_a_task), ("prefect.flow_runs", _of_the_flow)):
        logger = logging.getLogger(name)
        if change not in logger.filters:
            logger.addFilter(change)


def tidy_progress() -> None:
    """Have Prefect's handlers, which are there once a run has begun, take a line about progress now and then."""
    # Those of the logger send lines to the server, those of the root logger print them.
    for handler in (*logging.getLogger("burnish").handlers, *logging.getLogger().handlers):
        if not getattr(handler, "EVERY_LINE", False) and not any(
            isinstance(there, Sparse) for there in handler.filters
        ):
            handler.addFilter(Sparse())
